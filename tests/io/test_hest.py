"""HEST-1k samples: real sections laid out as the dataset is published."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import dask
import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad
from PIL import Image
from scipy.sparse import csr_matrix
from shapely.geometry import box, mapping
from spatialdata import read_zarr
from spatialdata.models import Image2DModel

import spade as sp
from spade.io._files.matrices import to_csr
from spade.io._images.tiff import TiffLevel
from spade.io._recorded.frames import frame_of

LEFT, TOP, SIDE = 3000, 4000, 3000
METADATA = {
    "dataset_title": "Spatial deconvolution of HER2-positive breast cancer",
    "id": "SPA1",
    "organ": "Breast",
    "species": "Homo sapiens",
    "st_technology": "Spatial Transcriptomics",
    "patient": "B",
    "oncotree_code": "IDC",
    "disease_state": None,
    "inter_spot_dist": 200,
    "spot_diameter": 100,
    "pixel_size_um_embedded": None,
    "pixel_size_um_estimated": 0.6877,
    "subseries": float("nan"),
    "nested": {"a": 1},
}


def write_pyramid(path: Path, pixels: np.ndarray, *, subifds: bool, **options) -> None:
    """Pyramid as sub-images of the first page, or, as vips writes it, as further pages marked reduced."""
    import tifffile

    levels = [pixels]
    while max(levels[-1].shape) > 512:
        even = levels[-1][: levels[-1].shape[0] // 2 * 2, : levels[-1].shape[1] // 2 * 2]
        levels.append(np.asarray(Image.fromarray(even).reduce(2)))
    with tifffile.TiffWriter(path) as tif:
        for i, level in enumerate(levels):
            extra = {"subifds": len(levels) - 1} if subifds and i == 0 else {}
            tif.write(
                level, tile=(256, 256), photometric="rgb", subfiletype=int(i > 0), metadata=None, **extra, **options
            )


def write_sample(folder: Path, pixels, adata, metadata, *, sample="SPA1", subifds=False, **options) -> None:
    for name in ("wsis", "st", "metadata"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_pyramid(folder / "wsis" / f"{sample}.tif", pixels, subifds=subifds, **(options or {"compression": "deflate"}))
    adata.write_h5ad(folder / "st" / f"{sample}.h5ad")
    (folder / "metadata" / f"{sample}.json").write_text(json.dumps(metadata))


@pytest.fixture(scope="module")
def her2st(data_dir, tmp_path_factory) -> tuple[Path, np.ndarray, AnnData]:
    """A piece of section B4 as HEST-1k would have it."""
    source = data_dir / "her2st" / "B4"
    with Image.open(source / "BT10737_D2_HE.jpg") as image:
        pixels = np.asarray(image.crop((LEFT, TOP, LEFT + SIDE, TOP + SIDE)))
    selection = pd.read_csv(source / "B4_selection.tsv", sep="\t")
    selection.index = selection.x.astype(str) + "x" + selection.y.astype(str)
    centres = selection[["pixel_x", "pixel_y"]] - (LEFT, TOP)
    counts = pd.read_csv(source / "B4.tsv.gz", sep="\t", index_col=0, usecols=range(200))
    inside = [i for i in counts.index if ((centres.loc[i] >= 0) & (centres.loc[i] < SIDE)).all()]
    adata = AnnData(counts.loc[inside].astype(np.float32), obsm={"spatial": centres.loc[inside].to_numpy()})
    adata.obs["total"] = adata.X.sum(axis=1)
    small = np.asarray(Image.fromarray(pixels).reduce(10))
    scale = {"spot_diameter_fullres": 145.0, "tissue_downscaled_fullres_scalef": 0.1}
    adata.uns["spatial"] = {"ST": {"images": {"downscaled_fullres": small}, "scalefactors": scale}}
    folder = tmp_path_factory.mktemp("hest")
    write_sample(folder, pixels, adata, METADATA)
    return folder, pixels, adata


@pytest.fixture
def sample(her2st, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(her2st[0], tmp_path / "hest"))


@pytest.mark.realdata
def test_sample_is_what_was_written(her2st):
    folder, pixels, adata = her2st
    sdata = sp.io.read_hest(folder, "SPA1")
    image, table = sdata["image"], sdata["table"]
    Image2DModel().validate(image)
    assert [image[level]["image"].shape for level in image] == [(3, n, n) for n in (3000, 1500, 750, 375)]
    assert image["scale0"]["image"].data.chunksize == (3, 512, 512)
    finest = image["scale0"]["image"]
    for y, x in ((0, 0), (511, 700), (1300, 2047), (2800, 2900)):
        patch = finest[:, y : y + 200, x : x + 100].to_numpy()
        np.testing.assert_array_equal(np.moveaxis(patch, 0, -1), pixels[y : y + 200, x : x + 100])
    assert list(table.obs_names) == list(sdata["spots"].index) == list(adata.obs_names)
    np.testing.assert_array_equal(table.obsm["spatial"], adata.obsm["spatial"])
    assert table.X.format == "csr"
    np.testing.assert_array_equal(table.X.toarray(), adata.X)
    assert sdata.attrs["spade"] == {
        "sample": "SPA1",
        "mpp": {"image": 0.6877},
        "frames": {"image": frame_of(sdata["image"])},
        "pitch_um": {"spots": 200.0},
    }
    np.testing.assert_allclose(sdata["spots"]["radius"], 50 / 0.6877)
    for key, value in {"organ": "Breast", "patient": "B", "technology": "Spatial Transcriptomics"}.items():
        assert list(table.obs[key].cat.categories) == [value]
    assert "disease_state" not in table.obs
    assert table.uns["hest"]["pixel_size_um_estimated"] == 0.6877
    assert not {"nested", "subseries", "disease_state"} & set(table.uns["hest"])
    assert "spatial" not in table.uns


@pytest.mark.realdata
@pytest.mark.parametrize("subifds", [False, True])
@pytest.mark.parametrize("compression", ["jpeg", "lzw", None])
def test_kinds_of_tiff(her2st, tmp_path, subifds, compression):
    _, pixels, adata = her2st
    pixels = np.ascontiguousarray(pixels[:1111, :1333])
    here = adata[(adata.obsm["spatial"] < 1100).all(axis=1)].copy()
    options = {"compression": compression, "compressionargs": {"level": 95} if compression == "jpeg" else None}
    write_sample(tmp_path, pixels, here, METADATA, subifds=subifds, **options)
    image = sp.io.read_hest(tmp_path, "SPA1")["image"]
    assert [image[level]["image"].shape[1:] for level in image] == [(1111, 1333), (555, 666), (277, 333)]
    read = np.moveaxis(image["scale0"]["image"].to_numpy(), 0, -1)
    if compression == "jpeg":
        assert np.abs(read.astype(int) - pixels).mean() < 3
    else:
        np.testing.assert_array_equal(read, pixels)


@pytest.mark.realdata
def test_slide_without_pyramid_gets_one(her2st, sample):
    import tifffile

    _, pixels, _ = her2st
    tifffile.imwrite(sample / "wsis" / "SPA1.tif", pixels, photometric="rgb", rowsperstrip=64, compression="deflate")
    image = sp.io.read_hest(sample, "SPA1")["image"]
    assert [image[level]["image"].shape[1:] for level in image] == [(3000, 3000), (1500, 1500), (750, 750)]
    np.testing.assert_array_equal(np.moveaxis(image["scale0"]["image"].to_numpy(), 0, -1), pixels)
    half = np.moveaxis(image["scale1"]["image"].to_numpy(), 0, -1).astype(int)
    assert np.abs(half - np.asarray(Image.fromarray(pixels).reduce(2))).max() <= 1


@pytest.mark.realdata
def test_slide_is_read_in_pieces(her2st, monkeypatch):
    tiles = []
    decode = TiffLevel._tile

    def counted(self, index):
        tiles.append((self.shape, index))
        return decode(self, index)

    monkeypatch.setattr(TiffLevel, "_tile", counted)
    sdata = sp.io.read_hest(her2st[0], "SPA1")
    assert tiles == []
    sdata["image"]["scale0"]["image"][:, 600:700, 600:700].to_numpy()
    assert 1 <= len(tiles) <= 4  # no more than one chunk of 512 px
    assert {shape for shape, _ in tiles} == {(3, 3000, 3000)}
    tiles.clear()
    sdata["image"]["scale3"]["image"].to_numpy()
    assert {shape for shape, _ in tiles} == {(3, 375, 375)}


@pytest.mark.realdata
def test_slide_in_threads_and_other_processes(her2st):
    folder, pixels, _ = her2st
    image = sp.io.read_hest(folder, "SPA1")["image"]["scale0"]["image"].data
    whole = np.moveaxis(pixels, -1, 0)
    for options in ({"scheduler": "threads", "num_workers": 8}, {"scheduler": "synchronous"}):
        with dask.config.set(**options):
            np.testing.assert_array_equal(image.compute(), whole)
    level = TiffLevel(folder / "wsis" / "SPA1.tif", (0,), (3, SIDE, SIDE))
    first = level[:, :300, :300]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(level))[:, :300, :300], first)  # noqa: S301


@pytest.mark.realdata
def test_round_trip(her2st, tmp_path):
    folder, pixels, adata = her2st
    sdata = sp.io.read_hest(folder, "SPA1")
    sp.io.write(sdata, tmp_path / "sample.zarr")
    back = read_zarr(tmp_path / "sample.zarr")
    np.testing.assert_array_equal(np.moveaxis(back["image"]["scale0"]["image"].to_numpy(), 0, -1), pixels)
    assert back["image"]["scale0"]["image"].data.chunksize == (3, 512, 512)
    assert back.attrs == sdata.attrs
    assert back["table"].uns["hest"] == sdata["table"].uns["hest"]
    pd.testing.assert_frame_equal(back["table"].obs, sdata["table"].obs, check_dtype=False, check_index_type=False)
    np.testing.assert_array_equal(back["table"].X.toarray(), adata.X)


@pytest.mark.realdata
def test_segmentations(sample):
    for name in ("tissue_seg", "cellvit_seg", "patches"):
        (sample / name).mkdir()
    (sample / "patches" / "SPA1.h5").write_bytes(b"never read")
    tissue = gpd.GeoDataFrame({"tissue_id": [0, 1]}, geometry=[box(0, 0, 900, 800), box(1000, 0, 2000, 500)])
    (sample / "tissue_seg" / "SPA1_contours.geojson").write_text(tissue.to_json())
    cells = gpd.GeoDataFrame({"class": ["Neoplastic", "Dead"]}, geometry=[box(5, 5, 9, 9), box(20, 20, 30, 30)])
    cells.to_parquet(sample / "cellvit_seg" / "SPA1_cellvit_seg.parquet")
    sdata = sp.io.read_hest(sample, "SPA1")
    assert list(sdata["tissue"].area) == [720_000, 500_000]
    assert list(sdata["tissue"]["tissue_id"]) == [0, 1]
    assert list(sdata["cells"]["class"]) == ["Neoplastic", "Dead"]
    assert sdata.coordinate_systems == ["global"]
    # the older form of the cells: a list with one feature per class, of many polygons
    (sample / "cellvit_seg" / "SPA1_cellvit_seg.parquet").unlink()
    polygons = [mapping(box(i, i, i + 2, i + 2))["coordinates"] for i in range(3)]
    feature = {
        "type": "Feature",
        "geometry": {"type": "MultiPolygon", "coordinates": polygons},
        "properties": {"objectType": "annotation", "classification": {"name": "Dead", "color": [1, 2, 3]}},
    }
    (sample / "cellvit_seg" / "SPA1_cellvit_seg.geojson").write_text(json.dumps([feature]))
    older = sp.io.read_hest(sample, "SPA1")
    assert list(older["cells"].area) == [4, 4, 4]
    assert set(older["cells"]["class"]) == {"Dead"}
    sp.io.write(older, sample / "out.zarr")
    assert list(read_zarr(sample / "out.zarr")["cells"]["class"]) == ["Dead"] * 3


@pytest.mark.realdata
def test_xenium_pseudo_spots_have_no_pitch(data_dir, tmp_path):
    source = data_dir / "xenium" / "NCBI858"
    adata = read_h5ad(source / "NCBI858.h5ad")
    # as named in this file, x_pixel is the row
    adata.obsm["spatial"] = adata.obs[["y_pixel", "x_pixel"]].to_numpy()
    with Image.open(source / "NCBI858.jpg") as image:
        pixels = np.asarray(image.convert("RGB"))
    metadata = {"st_technology": "Xenium", "organ": "Lung", "pixel_size_um_embedded": 0.2125, "inter_spot_dist": 100}
    write_sample(tmp_path, pixels, adata, metadata, sample="NCBI858")
    sdata = sp.io.read_hest(tmp_path, "NCBI858")
    assert sdata.attrs["spade"]["mpp"] == {"image": 0.2125}
    assert sdata.attrs["spade"]["pitch_um"] == {}
    assert sdata["table"].shape == (200, 338)
    assert set(sdata["table"].obs["patient"]) == {"NCBI858"}  # the metadata names none
    adata.obsm["spatial"] = adata.obs[["x_pixel", "y_pixel"]].to_numpy()
    adata.write_h5ad(tmp_path / "st" / "NCBI858.h5ad")
    with pytest.warns(UserWarning, match=r"NCBI858: \d+ of 200 spots lie outside the image of 1431 × 1249"):
        sp.io.read_hest(tmp_path, "NCBI858")


@pytest.mark.realdata
def test_missing_files_say_what_there_is(sample):
    with pytest.raises(FileNotFoundError, match=r"path='/nowhere' is not a folder.*wsis/, st/ and metadata/"):
        sp.io.read_hest("/nowhere", "SPA1")
    with pytest.raises(
        FileNotFoundError, match=r"'TENX99': wsis/TENX99.tif, st/TENX99.h5ad, .*there: 'SPA1'\. Download"
    ):
        sp.io.read_hest(sample, "TENX99")
    (sample / "st" / "SPA1.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match=r"'SPA1': st/SPA1.h5ad missing.*there: none"):
        sp.io.read_hest(sample, "SPA1")


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["wsis/SPA1.tif", "st/SPA1.h5ad", "metadata/SPA1.json"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.98])
def test_truncated_files_are_named(sample, name, share):
    content = (sample / name).read_bytes()
    (sample / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=rf"{Path(name).name}'.*(again|damaged)"):
        sp.io.read_hest(sample, "SPA1")


@pytest.mark.realdata
def test_scale_must_be_known_and_fit_the_spots(sample):
    def state(**facts):
        (sample / "metadata" / "SPA1.json").write_text(json.dumps({**METADATA, **facts}))
        return sp.io.read_hest(sample, "SPA1")

    assert state(pixel_size_um_estimated=None, pixel_size_um_embedded=0.69).attrs["spade"]["mpp"] == {"image": 0.69}
    with pytest.raises(ValueError, match=r"SPA1: the metadata has no positive microns per pixel .*Give mpp="):
        state(pixel_size_um_estimated=None)
    assert sp.io.read_hest(sample, "SPA1", mpp=0.688).attrs["spade"]["mpp"] == {"image": 0.688}
    with pytest.raises(ValueError, match=r"SPA1: at 0.25 µm/px .* platform states 200 µm.*0\.6[89]\d* would fit"):
        state(pixel_size_um_estimated=0.25)


@pytest.mark.realdata
def test_bad_tables(her2st, sample):
    _, _, adata = her2st

    def store(change):
        new = adata.copy()
        change(new)
        new.write_h5ad(sample / "st" / "SPA1.h5ad")
        return sp.io.read_hest(sample, "SPA1")

    with pytest.raises(ValueError, match=r"no obsm\['spatial'\].*keys of obsm: none"):
        store(lambda a: a.obsm.clear())
    with pytest.raises(ValueError, match=r"all \d+ spots lie outside the image of 3000 × 3000"):
        store(lambda a: a.obsm.update({"spatial": a.obsm["spatial"] + 9000}))
    with pytest.raises(ValueError, match=r"not two finite numbers per spot"):
        store(lambda a: a.obsm.update({"spatial": a.obsm["spatial"] * np.nan}))
    with pytest.warns(UserWarning, match=r"gene names occur more than once"):
        genes = store(lambda a: setattr(a, "var_names", ["A", "A", *a.var_names[2:]]))["table"].var_names
    assert list(genes[:2]) == ["A", "A-1"]


@pytest.mark.realdata
def test_other_pixels_are_refused(her2st, sample):
    import tifffile

    _, pixels, _ = her2st
    for wrong, what in ((pixels[..., 0], "uint8"), (pixels.astype(np.uint16), "uint16")):
        tifffile.imwrite(sample / "wsis" / "SPA1.tif", wrong, tile=(256, 256))
        with pytest.raises(ValueError, match=rf"slide of SPA1: .*{what}.*expected an 8-bit RGB image"):
            sp.io.read_hest(sample, "SPA1")


def test_entries_that_are_stored_in_parts_are_added_up_exactly():
    parts = csr_matrix((np.array([200, 100, 3], np.uint8), np.array([0, 0, 1]), np.array([0, 3])), shape=(1, 2))
    np.testing.assert_array_equal(to_csr(parts, "X", None).toarray(), [[300, 3]])
    np.testing.assert_array_equal(parts.data, [200, 100, 3])
    unsorted = csr_matrix((np.array([2, 1], np.uint8), np.array([1, 0]), np.array([0, 2])), shape=(1, 2))
    assert to_csr(unsorted, "X", None).dtype == np.uint8
