"""Tables in files of HEST: any way to store the same counts gives the same result, and what is no count is named."""

from __future__ import annotations

import json

import anndata as ad
import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.sparse import csc_matrix, csr_matrix

import spade as sp
from spade._samples.sample import content_digest
from spade.tl._expression.hest_bench import BenchTask, read_task_sample

COUNTS = np.array([[0, 5, 2], [1, 0, 0], [0, 0, 7], [3, 4, 0]], np.float32)
CENTRES = np.array([[100.0, 100.0], [300.0, 100.0], [200.0, 273.0], [400.0, 273.0]])
NAMES = [f"a{i}" for i in range(4)]


def in_parts(dense):
    """CSR of which every value is stored as two."""
    plain = csr_matrix(dense)
    parts = [np.repeat(array, 2) for array in (plain.data, plain.indices)]
    parts[0][::2] -= 1
    parts[0][1::2] = 1
    return csr_matrix((*parts, plain.indptr * 2), shape=dense.shape)


HELD = {
    "csr": csr_matrix,
    "csc": csc_matrix,
    "dense": np.asarray,
    "int64": lambda dense: csr_matrix(dense.astype(np.int64)),
    "in parts": in_parts,
    "zeros stored": lambda dense: csr_matrix((dense.ravel(), np.tile([0, 1, 2], 4), np.arange(0, 13, 3)), (4, 3)),
}
ODD = {"complex": lambda dense: dense.astype(complex), "text": lambda dense: dense.astype(str).astype(object)}


class Shade:
    name, id, dim, input_px, mpp = "shade", "1", 1, 0, None

    def encode(self, patches, mpp):
        return patches.mean((1, 2, 3), dtype=np.float32)[:, None]


@pytest.fixture
def folder(tmp_path):
    for name in ("wsis", "st", "metadata"):
        (tmp_path / name).mkdir()
    slide = np.full((600, 800, 3), 240, np.uint8)
    tifffile.imwrite(tmp_path / "wsis/S.tif", slide, tile=(256, 256), photometric="rgb")
    facts = {"st_technology": "Visium", "inter_spot_dist": 100, "pixel_size_um_estimated": 0.5}
    (tmp_path / "metadata/S.json").write_text(json.dumps(facts))
    with h5py.File(tmp_path / "patches.h5", "w") as file:
        file["img"], file["barcode"], file["coords"] = np.zeros((4, 8, 8, 3), np.uint8), NAMES[::-1], CENTRES[::-1]
    return tmp_path


def readers(folder, matrix, spatial=CENTRES):
    """Both readers of the table, as functions."""
    table = ad.AnnData(csr_matrix(COUNTS), pd.DataFrame(index=NAMES), obsm={"spatial": spatial})
    table.write_h5ad(folder / "st/S.h5ad")
    with h5py.File(folder / "st/S.h5ad", "r+") as file:  # anndata itself refuses some of these
        del file["X"]
        ad.io.write_elem(file, "X", matrix)
    task = BenchTask(folder, ["0"], {"S": (folder / "patches.h5", folder / "st/S.h5ad")}, {})
    return lambda: sp.io.read_hest(folder, "S")["table"].X, lambda: read_task_sample(task, "S", Shade(), 2).counts


@pytest.mark.parametrize("held", HELD)
def test_counts_do_not_depend_on_how_they_are_held(folder, held):
    section, bench = (read() for read in readers(folder, HELD[held](COUNTS)))
    np.testing.assert_array_equal(section.toarray(), COUNTS)
    np.testing.assert_array_equal(bench.toarray(), COUNTS[::-1])
    assert section.has_canonical_format
    assert section.dtype == (np.int64 if held == "int64" else np.float32)


@pytest.mark.parametrize("held", ODD)
def test_what_is_no_count_is_named(folder, held):
    for read in readers(folder, ODD[held](COUNTS)):
        with pytest.raises(ValueError, match=r"^S: .*S\.h5ad.*X.* of type (complex64|complex128|object)"):
            read()


def test_text_for_places_is_named(folder):
    for read in readers(folder, csr_matrix(COUNTS), pd.DataFrame({"x": list("abcd"), "y": 1.0}, index=NAMES)):
        with pytest.raises(ValueError, match=r"^S: .*S\.h5ad.*obsm\['spatial'\]"):
            read()


def test_a_sample_without_a_name_gets_the_same_one_however_its_counts_are_held():
    (sdata,) = sp.datasets.toy(1, 60, 40)
    table = sdata["table"]
    dense = table.X.toarray()
    by_dask = da.from_array(dense, chunks=(20, 40)).map_blocks(csr_matrix, dtype=np.float32)
    names = []
    for matrix in (csr_matrix(dense), dense, csc_matrix(dense), dense.astype(np.int64), in_parts(dense), by_dask):
        table.X = matrix
        names.append(content_digest(sdata))
    assert len(set(names)) == 1
    table.X = csr_matrix(dense[:, ::-1])
    assert content_digest(sdata) != names[0]
