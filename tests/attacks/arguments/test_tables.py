"""Tables as users hold them: any way to store the same counts gives the same result, and none is changed."""

from __future__ import annotations

import anndata as ad
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from helpers.sections import featured, train
from scipy.sparse import coo_matrix, csc_matrix, csr_array, csr_matrix

import spade as sp
from spade._samples.counts import log_expression, read_counts
from spade._samples.features import read_features
from spade._samples.open import iter_samples

N_SPOTS, N_GENES = 36, 60


def sample_of(matrix, **options):
    sdata = featured()
    sdata["table"].X = matrix
    (sample,) = iter_samples(sdata)
    return sample


@pytest.fixture(scope="module")
def counts():
    dense = featured()["table"].X.toarray()
    dense[dense > 200] = 200
    return dense


def doubled(dense):
    """CSR with every value stored in two parts, in disorder."""
    rows, columns = np.nonzero(dense)
    values = dense[rows, columns]
    first = np.floor(values / 2)
    matrix = coo_matrix((np.r_[first, values - first], (np.r_[rows, rows], np.r_[columns, columns])), shape=dense.shape)
    order = np.lexsort((-matrix.col, matrix.row))
    indptr = np.r_[0, np.cumsum(np.bincount(matrix.row, minlength=len(dense)))]
    return csr_matrix((matrix.data[order], matrix.col[order], indptr), shape=dense.shape)


def unsorted(dense):
    matrix = csr_matrix(dense)
    for row in range(len(dense)):
        part = slice(matrix.indptr[row], matrix.indptr[row + 1])
        matrix.indices[part], matrix.data[part] = matrix.indices[part][::-1].copy(), matrix.data[part][::-1].copy()
    return csr_matrix((matrix.data, matrix.indices, matrix.indptr), shape=dense.shape)


def zeros_stored(dense):
    full = csr_matrix(np.ones_like(dense))
    full.data = dense.ravel().astype(np.float32)
    return full


def negative_zeros(dense):
    return np.where(dense == 0, np.float32(-0.0), dense)


def by_dask(dense, chunks=(10, 25)):
    return da.from_array(dense, chunks=chunks).map_blocks(csr_matrix, dtype=np.float32)


HELD = {
    "dense": lambda dense: dense,
    "csc": csc_matrix,
    "csr_array": csr_array,
    "int64": lambda dense: csr_matrix(dense.astype(np.int64)),
    "uint16": lambda dense: dense.astype(np.uint16),
    "uint8 in parts": lambda dense: doubled(dense).astype(np.uint8),
    "float64": lambda dense: csr_matrix(dense.astype(np.float64)),
    "in parts": doubled,
    "unsorted": unsorted,
    "zeros stored": zeros_stored,
    "negative zeros": negative_zeros,
    "dask": lambda dense: da.from_array(dense, chunks=(10, 25)),
    "dask of csr": by_dask,
    "dask of csr by rows": lambda dense: by_dask(dense, (7, -1)),
}


@pytest.mark.parametrize("held", HELD)
def test_counts_do_not_depend_on_how_they_are_held(counts, held):
    sample = sample_of(HELD[held](counts))
    read = read_counts(sample)
    assert read.dtype == np.float32
    assert read.has_canonical_format
    np.testing.assert_array_equal(read.toarray(), counts)
    expected = np.log1p(counts / counts.sum(1, keepdims=True) * 1e4)
    np.testing.assert_allclose(log_expression(sample, None, normalized=False).X.toarray(), expected, rtol=1e-5)


def bytes_of(matrix):
    parts = [matrix.data, matrix.indices, matrix.indptr]
    return [part.tobytes() for part in parts]


@pytest.mark.slow
@pytest.mark.parametrize("held", ["in parts", "unsorted", "zeros stored", "uint8 in parts", "csc"])
def test_the_matrix_is_never_changed(counts, held):
    sdata = featured()
    sdata["table"].X = HELD[held](counts)
    before = bytes_of(sdata["table"].X)
    sp.pp.patches(sdata, size_um=40)
    panel = sp.pp.select_genes(sdata, min_genes=5, n_top_genes=8)
    sp.pp.smooth_expression(sdata)
    model = train(sdata, genes=panel)
    sp.tl.embed(sdata, model)
    sp.tl.rank_expert_genes(sdata, min_spots=5)
    sp.tl.predict_expression(sdata, model, reference=featured(name="other", seed=1), k=3)
    sp.tl.expression_trust([sdata, featured(name="other", seed=1)], model, k=3, n_boot=10)
    assert bytes_of(sdata["table"].X) == before


@pytest.mark.parametrize("held", ["in parts", "dask of csr", "int64", "unsorted"])
def test_panels_and_models_do_not_depend_on_how_counts_are_held(counts, held):
    plain, other = featured(), featured()
    plain["table"].X, other["table"].X = csr_matrix(counts), HELD[held](counts)
    for method in ("spade", "seal"):
        chosen = [sp.pp.select_genes(s, method=method, min_genes=5, n_top_genes=8).names for s in (plain, other)]
        assert chosen[0] == chosen[1]
    assert train(plain).id == train(other).id


@pytest.mark.parametrize("kind", ["csr", "dense", "csc"])
def test_a_backed_table_is_read(counts, tmp_path, kind):
    sdata = featured()
    table = sdata["table"]
    table.X = {"csr": csr_matrix, "csc": csc_matrix, "dense": np.asarray}[kind](counts)
    table.layers["more"] = csr_matrix(counts * 2)
    table.uns["spatialdata_attrs"]["region"] = "spots"  # spatialdata itself refuses the list that h5ad makes an array
    table.write_h5ad(tmp_path / "table.h5ad")
    sdata.tables["table"] = ad.read_h5ad(tmp_path / "table.h5ad", backed="r")
    (sample,) = iter_samples(sdata)
    np.testing.assert_array_equal(read_counts(sample).toarray(), counts)
    np.testing.assert_array_equal(read_counts(sample, "more").toarray(), counts * 2)
    panel = sp.pp.select_genes(sdata, min_genes=5, n_top_genes=8)
    plain = featured()
    plain["table"].X = csr_matrix(counts)
    assert panel.names == sp.pp.select_genes(plain, min_genes=5, n_top_genes=8).names


@pytest.mark.parametrize("dtype", [bool, np.int64, np.float16])
def test_other_numbers_are_counts(dtype):
    dense = (featured()["table"].X.toarray() > 3).astype(dtype)
    np.testing.assert_array_equal(read_counts(sample_of(dense)).toarray(), dense.astype(np.float32))


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda dense: dense.astype(complex), TypeError, "X holds values of type complex128; expected real numbers"),
        (lambda dense: csr_matrix(dense.astype(complex)), TypeError, "X holds values of type complex128"),
        (lambda dense: dense.astype(object), TypeError, "X holds values of type object"),
        (lambda dense: np.ma.masked_less(dense, 1), ValueError, "X has [0-9]+ masked values"),
        (lambda dense: dense.astype(np.float64) * 1e300, ValueError, "X has [0-9]+ values that are NaN or infinite"),
        (lambda dense: doubled(dense) * 0.3, ValueError, "not whole numbers"),
    ],
    ids=["complex", "sparse complex", "object", "masked", "huge", "in parts"],
)
def test_what_is_no_count_is_named(counts, spoil, error, words):
    sample = sample_of(None)
    sample.table.layers["odd"] = spoil(counts)
    with pytest.raises(error, match=words.replace("X ", r"layers\['odd'\] ")):
        read_counts(sample, "odd")


def test_parts_of_a_whole_number_are_whole(counts):
    halves = doubled(counts)
    halves.data = np.full(len(halves.data), 1.5)
    both = counts > 0
    np.testing.assert_array_equal(read_counts(sample_of(halves)).toarray(), both * 3)


@pytest.mark.parametrize("kind", ["csr", "frame", "nullable", "float64", "int", "dask", "dask of csr", "bool frame"])
def test_features_do_not_depend_on_how_they_are_held(kind):
    sdata = featured()
    table = sdata["table"]
    x = np.round(table.obsm["X_f"])
    frame = pd.DataFrame(x, index=table.obs_names, columns=[f"f{i}" for i in range(x.shape[1])])
    held = {
        "csr": lambda: csr_matrix(x),
        "frame": lambda: frame,
        "nullable": lambda: frame.astype("Int64"),
        "float64": lambda: x.astype(np.float64),
        "int": lambda: x.astype(int),
        "dask": lambda: da.from_array(x, chunks=(10, 3)),
        "dask of csr": lambda: by_dask(x, (10, 3)),
        "bool frame": lambda: frame.assign(f0=frame["f0"] > 0),
    }[kind]()
    if kind == "bool frame":
        x[:, 0] = x[:, 0] > 0
    table.obsm["X_f"] = held
    (sample,) = iter_samples(sdata)
    read = read_features(sample, "X_f")
    assert read.dtype == np.float32
    np.testing.assert_array_equal(read, x)


def test_a_missing_value_of_pandas_is_missing():
    sdata = featured()
    table = sdata["table"]
    frame = pd.DataFrame(np.ones((table.n_obs, 2)), index=table.obs_names, columns=["a", "b"]).astype("Float32")
    frame.iloc[3] = pd.NA
    table.obsm["X_f"] = frame
    (sample,) = iter_samples(sdata)
    assert np.flatnonzero(np.isnan(read_features(sample, "X_f")).all(1)).tolist() == [3]


@pytest.mark.parametrize("kind", ["text", "categorical", "complex", "complex column", "object"])
def test_features_that_are_no_numbers_are_named(kind):
    sdata = featured()
    table = sdata["table"]
    frame = pd.DataFrame(np.ones((table.n_obs, 2)), index=table.obs_names, columns=["a", "b"])
    table.obsm["X_f"] = {
        "text": lambda: frame.assign(note="x"),
        "categorical": lambda: frame.assign(note=pd.Categorical(["x"] * table.n_obs)),
        "complex": lambda: frame.to_numpy().astype(complex),
        "complex column": lambda: frame.astype(complex),
        "object": lambda: frame.to_numpy().astype(object),
    }[kind]()
    words = "'note'" if kind in ("text", "categorical") else "of type"
    for call in (
        lambda: sp.tl.cluster_experts(sdata, use_rep="X_f"),
        lambda: sp.tl.few_shot(sdata, label_key="organ", use_rep="X_f"),
        lambda: sp.pp.spatial_context(sdata, use_rep="X_f", radius_um=100),
        lambda: sp.tl.mixing(sdata, use_rep="X_f"),
    ):
        with pytest.raises((TypeError, KeyError), match=rf"X_f.*{words}|patches"):
            call()
