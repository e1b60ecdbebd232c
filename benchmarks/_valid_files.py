"""Small valid files of every format that the package reads, for :mod:`attack`."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Read = Callable[[Path], object]
ST = ("counts.tsv", "he.png", "spots.tsv", "labels.tsv")
HEST = (
    "wsis/S.tif",
    "st/S.h5ad",
    "metadata/S.json",
    "tissue_seg/S_contours.geojson",
    "cellvit_seg/S_cellvit_seg.parquet",
)
BENCH = ("splits/train_0.csv", "var_50genes.json", "patches/A.h5", "adata/A.h5ad")


@dataclass(frozen=True)
class Target:
    """A valid file, or a folder of files of which one is damaged, and what reads it."""

    name: str
    #: Path of the file or folder that is copied for every attack.
    place: Path
    #: File in the folder that is damaged; "" for the file itself, None for any.
    file: str | None
    read: Read


def write_targets(folder: Path) -> list[Target]:
    """Write a valid file of every format, and say what reads it."""
    import spade as sp
    from spade._samples.images import image_levels
    from spade._samples.open import iter_samples
    from spade.io._feature_files import read_feature_file
    from spade.io._files.arrays import read_npy
    from spade.io._images.multiscale import read_image
    from spade.io._state_dict import read_state
    from spade.tl._expression.hest_bench import read_task, read_task_sample

    def pixels(path: Path) -> None:
        read_image(path, "image")["scale0"]["image"].to_numpy()

    def store(path: Path) -> None:
        for sample in iter_samples(path):
            for image in sample.sdata.images.values():
                level = image_levels(image)[0]
                level.read(0, level.shape[0], 0, level.shape[1])

    def bench(path: Path) -> None:
        task = read_task(path)
        for name in task.files:
            read_task_sample(task, name, sp.encoders.get("texture"), 8)

    write_images(folder), write_tables(folder), write_arrays(folder), write_folders(folder)
    st = folder / "st"
    files: list[tuple[str, str, Read]] = [
        *((name, name, pixels) for name in ("rgb.tif", "jpeg.tif", "lzw.tif", "he.png", "palette.png", "he.jpg")),
        ("outlines.geojson", "outlines.geojson", sp.io.read_annotations),
        ("outlines.json.gz", "outlines.json.gz", sp.io.read_annotations),
        ("labels.csv", "labels.csv", sp.io.read_annotations),
        *((f"features.{kind}", f"features.{kind}", read_feature_file) for kind in ("h5", "pt")),
        *((f"state.{kind}", f"state.{kind}", read_state) for kind in ("pth", "safetensors")),
        ("legacy.pth", "legacy.pth", read_state),
        ("centroids.npy", "centroids.npy", lambda path: read_npy(path, "centroids")),
    ]
    targets = [Target(name, folder / file, "", read) for name, file, read in files]
    targets += [
        Target(f"st {name}", st, name, lambda path: sp.io.read_st(*(path / n for n in ST[:3]), labels=path / ST[3]))
        for name in ST
    ]
    targets += [
        Target(f"hest {name.partition('/')[0]}", folder / "hest", name, lambda path: sp.io.read_hest(path, "S"))
        for name in HEST
    ]
    targets += [Target(f"bench {name}", folder / "bench", name, bench) for name in BENCH]
    return [*targets, Target("store", folder / "a.zarr", None, store)]


def write_images(folder: Path) -> None:
    """Write images of 48 × 40 pixels."""
    import tifffile
    from PIL import Image

    values = np.add.outer(np.arange(48), np.arange(40))[..., None] + np.array([0, 40, 90])
    values = (values % 256).astype(np.uint8)
    for name, compression in (("rgb.tif", None), ("jpeg.tif", "jpeg"), ("lzw.tif", "lzw")):
        tifffile.imwrite(folder / name, values, photometric="rgb", tile=(16, 16), compression=compression)
    image = Image.fromarray(values)
    image.save(folder / "he.png")
    image.save(folder / "he.jpg")
    image.quantize(16).save(folder / "palette.png")


def outlines() -> dict[str, object]:
    """Two polygons, as QuPath exports them."""
    ring = [[2.0, 2.0], [30.0, 3.5], [31.0, 30.0], [2.0, 28.0], [2.0, 2.0]]
    return {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": str(i),
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "annotation", "classification": {"name": name}},
            }
            for i, name in enumerate(("Tumor", "Stroma"))
        ],
    }


def write_tables(folder: Path) -> None:
    """Write outlines, labels, and a section of classic ST."""
    from PIL import Image

    text = json.dumps(outlines())
    (folder / "outlines.geojson").write_text(text)
    (folder / "outlines.json.gz").write_bytes(gzip.compress(text.encode(), mtime=0))
    (folder / "labels.csv").write_text("sample,spot,layer,score\nA,s1,L1,0.5\nA,s2,L2,\nB,s1,L1,3\n")
    st = folder / "st"
    st.mkdir()
    spots = [(x, y) for y in range(2, 5) for x in range(2, 6)]
    genes = [f"G{i}" for i in range(6)]
    lines = ["\t".join([f"{x}x{y}", *(str((x * y + i) % 5) for i in range(6))]) for x, y in spots]
    (st / ST[0]).write_text("\n".join(["\t".join(["", *genes]), *lines]) + "\n")
    Image.new("RGB", (320, 340), "pink").save(st / ST[1])
    lines = [f"{x}\t{y}\t{x}.0\t{y}.1\t{10 * x}\t{10 * y}\t1" for x, y in spots]
    (st / ST[2]).write_text("\n".join(["x\ty\tnew_x\tnew_y\tpixel_x\tpixel_y\tselected", *lines]) + "\n")
    lines = [f"{x}\t{y}\tlayer {y}" for x, y in spots]
    (st / ST[3]).write_text("\n".join(["x\ty\tlabel", *lines]) + "\n")


def write_arrays(folder: Path) -> None:
    """Write features, weights and plain arrays."""
    import h5py
    import torch
    from safetensors.torch import save_file

    values = np.arange(60, dtype=np.float32).reshape(12, 5)
    with h5py.File(folder / "features.h5", "w") as file:
        file.create_dataset("features", data=values, chunks=(4, 5), compression="gzip")
        file.create_dataset("coords", data=np.zeros((12, 2), dtype=np.int64))
    torch.save({"features": torch.from_numpy(values)}, folder / "features.pt")
    state = {"a": torch.from_numpy(values), "b": torch.ones(3)}
    torch.save(state, folder / "state.pth")
    torch.save(state, folder / "legacy.pth", _use_new_zipfile_serialization=False)
    save_file(state, folder / "state.safetensors")
    np.save(folder / "centroids.npy", values)


def write_folders(folder: Path) -> None:
    """Write a sample of HEST-1k, a task of HEST-Bench and a store."""
    import anndata
    import h5py
    import pandas as pd
    import tifffile
    from geopandas import GeoDataFrame
    from scipy.sparse import csr_matrix
    from shapely import box

    import spade as sp

    hest, bench = folder / "hest", folder / "bench"
    for name in (*(hest / name for name in HEST), *(bench / name for name in BENCH)):
        name.parent.mkdir(parents=True, exist_ok=True)
    slide = np.full((300, 400, 3), 230, np.uint8)
    slide[50:250, 80:300] = (200, 120, 160)
    tifffile.imwrite(hest / HEST[0], slide, photometric="rgb", tile=(128, 128), compression="jpeg")
    centres = np.array([[80.0 + 50 * x, 60.0 + 50 * y] for y in range(4) for x in range(5)])
    counts = csr_matrix(np.arange(100).reshape(20, 5) % 4, dtype=np.float32)
    names, genes = [f"spot{i}" for i in range(20)], [f"G{i}" for i in range(5)]
    table = anndata.AnnData(counts, pd.DataFrame(index=names), pd.DataFrame(index=genes), obsm={"spatial": centres})
    table.write_h5ad(hest / HEST[1])
    facts = {"organ": "Breast", "st_technology": "Xenium", "patient": "P1", "pixel_size_um_estimated": 0.5}
    (hest / HEST[2]).write_text(json.dumps(facts))
    (hest / HEST[3]).write_text(json.dumps(outlines()))
    GeoDataFrame({"class": ["a"] * 3}, geometry=[box(i, i, i + 9, i + 8) for i in range(3)]).to_parquet(hest / HEST[4])

    (bench / BENCH[0]).write_text("sample_id,patches_path,expr_path\nA,patches/A.h5,adata/A.h5ad\n")
    (bench / "splits" / "test_0.csv").write_text("sample_id,patches_path,expr_path\nB,patches/B.h5,adata/B.h5ad\n")
    (bench / BENCH[1]).write_text(json.dumps({"genes": genes[:3]}))
    for name in "AB":
        with h5py.File(bench / f"patches/{name}.h5", "w") as file:
            file["img"] = (np.arange(4 * 32 * 32 * 3) % 256).astype(np.uint8).reshape(4, 32, 32, 3)
            file.create_dataset("barcode", data=np.array([[n.encode()] for n in names[:4]]))
            file.create_dataset("coords", data=centres[:4])
        table.write_h5ad(bench / f"adata/{name}.h5ad")

    small = sp.io.read_hest(hest, "S")
    sp.io.write(small, folder / "a.zarr")
