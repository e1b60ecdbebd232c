"""The output folder of SAW for Stereo-seq: square bins, cells, and pictures on which one pixel is one spot of DNA."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import tifffile
from scipy.sparse import csr_matrix

from helpers.technologies.tenx import GENES, picture, rates

CHIP = "SS200000135TL_D1"
#: µm from spot to spot, and thereby of a pixel of registered pictures; width and height in spots.
MPP, WIDTH, HEIGHT = 0.5, 440, 400
#: Where the chip region begins on the whole chip: coordinates in files are counted from there.
OFFSET = {"minX": 5300, "minY": 11200}
BINS = (1, 20, 50, 100)
BORDER, PADDING = 32, 32767
EXPRESSION = [("x", "<i4"), ("y", "<i4"), ("count", "u1")]
CELL = [("id", "<u4"), ("x", "<i4"), ("y", "<i4"), ("offset", "<u4")]
CELL += [(name, "<u2") for name in ("geneCount", "expCount", "dnbCount", "area", "cellTypeID", "clusterID")]
GENE = [("geneName", "S64"), ("offset", "<u4"), ("cellCount", "<u4"), ("expCount", "<u4"), ("maxMIDcount", "<u2")]


def molecules(seed: int = 0) -> pd.DataFrame:
    """Return where counts lie: columns ``x``, ``y``, ``gene`` and ``count``, sorted by gene, as in ``bin1``."""
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, WIDTH, 400), rng.integers(0, HEIGHT, 400)
    cell, gene = np.nonzero(counts := rng.poisson(rates(x / WIDTH, y / HEIGHT)))
    frame = {"x": x[cell], "y": y[cell], "gene": GENES[gene], "count": counts[cell, gene]}
    return binned(pd.DataFrame(frame), 1)


def binned(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    """Return the counts of bins of ``n`` spots, each at its upper left corner, as geftools writes them."""
    corners = frame.assign(x=frame["x"] // n * n, y=frame["y"] // n * n)
    return corners.groupby(["gene", "x", "y"], as_index=False)["count"].sum()


def write_stereoseq(folder: Path) -> pd.DataFrame:
    """Write the folder, and beside it ``he.tif``, the registered H&E image; return the molecules."""
    for name in ("02.count", "03.register", "04.tissuecut", "041.cellcut", "051.cellcluster"):
        (folder / name).mkdir(parents=True)
    frame = molecules()
    for name in (f"02.count/{CHIP}.raw.gef", f"04.tissuecut/{CHIP}.gef"):
        _write_bins(folder / name, frame, (1,) if "raw" in name else BINS)
    counts = _write_cells(folder / "041.cellcut" / f"{CHIP}.cellbin.gef")
    cells = pd.DataFrame(index=[str(i) for i in range(len(counts))])
    table = ad.AnnData(csr_matrix(counts.astype(np.float32)), obs=cells, var=pd.DataFrame(index=GENES))
    table.write_h5ad(folder / "051.cellcluster" / f"{CHIP}.cell.cluster.h5ad")
    grey = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH), dtype=np.uint8)
    tifffile.imwrite(folder / "03.register" / f"ssDNA_{CHIP}_regist.tif", grey)
    tifffile.imwrite(folder / "03.register" / f"ssDNA_{CHIP}_mask.tif", np.uint8(grey > 128))
    tifffile.imwrite(folder.parent / "he.tif", picture(HEIGHT, WIDTH), photometric="rgb")
    return frame


def _write_bins(path: Path, frame: pd.DataFrame, sizes: tuple[int, ...]) -> None:
    with h5py.File(path, "w") as file:
        file.attrs["version"], file.attrs["omics"] = np.array([2], "<u4"), np.array([b"Transcriptomics"], "S32")
        for n in sizes:
            bins = binned(frame, n)
            group = file.create_group(f"geneExp/bin{n}")
            values = np.empty(len(bins), EXPRESSION)
            for name in ("x", "y", "count"):
                values[name] = bins[name]
            expression = group.create_dataset("expression", data=values)
            limits = OFFSET | {"maxX": OFFSET["minX"] + WIDTH - 1, "maxY": OFFSET["minY"] + HEIGHT - 1}
            for name, value in (limits | {"maxExp": values["count"].max(), "resolution": 500}).items():
                expression.attrs[name] = np.array([value], "<i4")
            names, first, n_rows = np.unique(bins["gene"].to_numpy(str), return_index=True, return_counts=True)
            genes = np.empty(len(names), [("gene", "S64"), ("offset", "<u4"), ("count", "<u4")])
            genes["gene"], genes["offset"], genes["count"] = names.astype("S64"), first, n_rows
            group["gene"], group["exon"] = genes, values["count"]


def _write_cells(path: Path) -> np.ndarray:
    """Write cells on a grid, octagons of at most 32 corners given from the centre, and return their counts."""
    rng = np.random.default_rng(1)
    y, x = (axis.ravel() * 40 + 20 + rng.integers(-9, 10, 110) for axis in np.indices((10, 11)))
    counts = rng.poisson(1.5 * rates(x / WIDTH, y / HEIGHT))
    n_genes = (counts > 0).sum(1)
    cells = np.zeros(len(x), CELL)
    cells["id"], cells["x"], cells["y"], cells["area"], cells["clusterID"] = np.arange(len(x)), x, y, 154, 1
    cells["offset"], cells["geneCount"], cells["expCount"] = np.r_[0, np.cumsum(n_genes)[:-1]], n_genes, counts.sum(1)
    cells["dnbCount"] = np.minimum(154, cells["expCount"])
    border = np.full((len(x), BORDER, 2), PADDING, np.int16)
    border[:, :8] = [[7, 3], [3, 7], [-3, 7], [-7, 3], [-7, -3], [-3, -7], [3, -7], [7, -3]]
    genes = np.zeros(len(GENES), GENE)
    genes["geneName"], genes["cellCount"], genes["expCount"] = GENES.astype("S64"), (counts > 0).sum(0), counts.sum(0)
    genes["offset"], genes["maxMIDcount"] = np.r_[0, np.cumsum(genes["cellCount"])[:-1]], counts.max(0)
    with h5py.File(path, "w") as file:
        facts = {"version": 2, "resolution": 500, "offsetX": OFFSET["minX"], "offsetY": OFFSET["minY"]}
        file.attrs.update({name: np.array([value], "<i4") for name, value in facts.items()})
        group = file.create_group("cellBin")
        group["cell"], group["cellBorder"], group["gene"] = cells, border, genes
        for name, other, values in (("cellExp", "geneID", counts), ("geneExp", "cellID", counts.T)):
            rows, columns = np.nonzero(values)
            pairs = np.zeros(len(rows), [(other, "<u4"), ("count", "<u2")])
            pairs[other], pairs["count"] = columns, values[rows, columns]
            group[name], group[f"{name}Exon"] = pairs, pairs["count"]
        group["cellExon"], group["geneExon"] = cells["expCount"], genes["expCount"]
        group["blockIndex"], group["blockSize"] = np.arange(2, dtype="<u4"), np.array([256, 256, 2, 2], "<u4")
        group["cellTypeList"] = np.array([b"default"], "S32")
    return counts
