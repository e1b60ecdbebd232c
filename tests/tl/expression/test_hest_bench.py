"""A folder of HEST-Bench, as it is published and damaged."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import spade as sp


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Four samples of two patients as the benchmark lays them out; patches show what the counts follow."""
    folder = tmp_path_factory.mktemp("bench") / "IDC"
    for name in ("splits", "patches", "adata"):
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(0)
    n, genes = 30, [f"G{i:02d}" for i in range(40)]
    for i in range(4):
        shade = rng.uniform(60, 220, n)
        img = (shade[:, None, None, None] + rng.normal(0, 8, (n, 32, 32, 3))).clip(0, 255).astype(np.uint8)
        barcodes = np.array([f"s{i}_{k:02d}" for k in range(n)])
        places = np.column_stack([np.arange(n) % 6, np.arange(n) // 6]) * 100 + 500
        counts = rng.poisson(np.exp(shade[:, None] / 90 * np.linspace(-1, 1, 40) + 1)).astype(np.float32)
        order = rng.permutation(n)  # rows of both files differ
        adata = ad.AnnData(csr_matrix(counts), pd.DataFrame(index=barcodes), pd.DataFrame(index=genes))
        adata.obsm["spatial"] = places.astype(float)
        adata = adata[order].copy()
        extra = ad.AnnData(csr_matrix(np.ones((2, 40), np.float32)), pd.DataFrame(index=["x0", "x1"]), adata.var)
        extra.obsm["spatial"] = np.zeros((2, 2))
        ad.concat([extra, adata]).write_h5ad(folder / "adata" / f"S{i}.h5ad")  # spots without a patch
        with h5py.File(folder / "patches" / f"S{i}.h5", "w") as file:
            file["img"] = img
            file["barcode"] = barcodes.astype("S")[:, None]
            file["coords"] = places - 16
    for k, test in enumerate(((0, 1), (2, 3))):
        for part, chosen in (("test", test), ("train", sorted({0, 1, 2, 3} - set(test)))):
            rows = [
                {"sample_id": f"S{i}", "patches_path": f"patches/S{i}.h5", "expr_path": f"adata/S{i}.h5ad"}
                for i in chosen
            ]
            pd.DataFrame(rows).to_csv(folder / "splits" / f"{part}_{k}.csv")
    (folder / "var_50genes.json").write_text(json.dumps({"genes": genes[30:] + genes[:5]}))
    return folder


@pytest.fixture
def folder(published, tmp_path):
    return shutil.copytree(published, tmp_path / "IDC")


def bench(folder, **options):
    return sp.tl.expression_benchmark(folder, n_genes=10, **options)


def test_a_folder_runs_as_it_is(published):
    table = bench(published)
    hest, sound = (table[table["protocol"] == name] for name in ("hest", "sound"))
    genes = json.loads((published / "var_50genes.json").read_text())["genes"]
    assert hest[hest["fold"] == "0"]["gene"].tolist() == genes
    assert set(hest["fold"]) == {"0", "1"}
    assert set(sound[sound["fold"] == "0"]["section"]) == {"S0", "S1"}
    assert set(table["representation"]) == {"texture"}
    assert table.groupby("protocol")["pearson"].mean().min() > 0.15
    # one fold by hand, joined by barcode
    encoder = sp.encoders.get("texture")
    parts = {}
    for i in range(4):
        with h5py.File(published / "patches" / f"S{i}.h5") as file:
            x = encoder.encode(file["img"][:], 112 / 32)
            barcodes = file["barcode"][:].ravel().astype(str)
        counts = ad.read_h5ad(published / "adata" / f"S{i}.h5ad")[barcodes, genes].X.toarray()
        parts[i] = x, np.log1p(counts.astype(float))
    x, y = (np.concatenate([parts[i][j] for i in (2, 3)]) for j in (0, 1))
    query, truth = (np.concatenate([parts[i][j] for i in (0, 1)]) for j in (0, 1))
    scaler = StandardScaler().fit(x)
    pca = PCA(n_components=60, random_state=1).fit(scaler.transform(x))
    x, query = (pca.transform(scaler.transform(part)).astype(np.float32) for part in (x, query))
    theirs = Ridge(solver="lsqr", alpha=100 / (60 * len(genes)), fit_intercept=False, max_iter=1000).fit(x, y)
    wanted = [pearsonr(truth[:, g], theirs.predict(query)[:, g])[0] for g in range(len(genes))]
    np.testing.assert_allclose(hest[hest["fold"] == "0"]["pearson"], wanted, atol=5e-3)


def test_an_encoder_of_ones_own(published):
    class Shade:
        name, id, dim, input_px, mpp = "shade", "1", 1, 0, None

        def encode(self, patches, mpp):
            assert mpp == 112 / 32
            return patches.mean((1, 2, 3), dtype=np.float32)[:, None]

    table = bench(published, encoder=Shade(), protocol="sound", batch_size=7)
    assert set(table["representation"]) == {"shade"}
    assert table["pearson"].mean() > 0.15
    Shade.input_px = 224
    with pytest.raises(ValueError, match=r"S2: .*patches are 32 px wide, but encoder 'shade' reads 224 px"):
        bench(published, encoder=Shade())
    with pytest.raises(ValueError, match="a folder of HEST-Bench has no obsm"):
        bench(published, use_rep="X_texture")


def test_folders_that_are_something_else(folder, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither a .zarr store nor a task of HEST-Bench, which has splits"):
        bench(tmp_path / "other")
    for name, message in (
        ("splits/test_1.csv", r"test_1.csv' is missing"),
        ("var_50genes.json", r"var_50genes.json' is missing"),
        ("patches/S3.h5", r"S3: .*S3.h5', which the splits name, is missing"),
        ("adata/S1.h5ad", r"S1: .*S1.h5ad', which the splits name, is missing"),
    ):
        kept = (folder / name).read_bytes()
        (folder / name).unlink()
        with pytest.raises(FileNotFoundError, match=message):
            bench(folder)
        (folder / name).write_bytes(kept)


@pytest.mark.parametrize("name", ["patches/S0.h5", "adata/S0.h5ad", "var_50genes.json", "splits/train_0.csv"])
def test_truncated_files(folder, name):
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"cannot be read as|lacks the columns|has missing values"):
        bench(folder)
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"cannot be read as|cannot be read as CSV"):
        bench(folder)


def edit(folder, name="S0", **datasets):
    with h5py.File(folder / "patches" / f"{name}.h5", "a") as file:
        for key, change in datasets.items():
            values = file[key][:]
            del file[key]
            if change is not None:
                file[key] = change(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coords": lambda v: v[::-1]}, r"S0: \d+ of 30 patches lie more than half the distance"),
        ({"barcode": lambda v: v[::-1]}, "patches lie more than half the distance between spots away"),
        ({"coords": lambda v: v[:-1]}, r"30 patches, but 30 barcodes and coords of shape \(29, 2\)"),
        ({"barcode": lambda v: v[:-1]}, "30 patches, but 29 barcodes"),
        ({"barcode": None}, "expected img, barcode and coords"),
        ({"img": lambda v: v.astype(np.float32)}, r"float32 \(30, 32, 32, 3\); expected uint8"),
        ({"barcode": lambda v: np.where(v == v[0], b"lost", v)}, "S0: 1 of 30 patches have no spot .*'lost'"),
        ({"barcode": lambda v: np.where(v == v[0], v[1], v)}, "barcodes of patches occur more than once"),
    ],
)
def test_files_that_do_not_fit_each_other(folder, change, message):
    edit(folder, **change)
    with pytest.raises(ValueError, match=message):
        bench(folder)


def test_a_common_shift_of_coordinates_is_no_mismatch(folder):
    edit(folder, coords=lambda v: v + 1234)
    assert len(bench(folder, protocol="hest"))


def test_splits_and_genes_that_make_no_sense(folder):
    splits = pd.read_csv(folder / "splits" / "train_0.csv")
    test = pd.read_csv(folder / "splits" / "test_0.csv")
    pd.concat([splits, test]).to_csv(folder / "splits" / "train_0.csv")
    with pytest.raises(ValueError, match="fold 0 has 'S0', 'S1' in training and test"):
        bench(folder)
    splits.assign(patches_path="../../secret.h5").to_csv(folder / "splits" / "train_0.csv")
    with pytest.raises(ValueError, match="outside of the folder"):
        bench(folder)
    splits.assign(patches_path="patches/S2.h5").to_csv(folder / "splits" / "train_0.csv")
    with pytest.raises(ValueError, match="'S3' has different files in different splits"):
        bench(folder)
    splits.to_csv(folder / "splits" / "train_0.csv")
    for content, message in (
        ({"genes": []}, "with at least one name"),
        (["G01"], "with at least one name"),
        ({"genes": ["G01", "G01"]}, "names genes more than once"),
    ):
        (folder / "var_50genes.json").write_text(json.dumps(content))
        with pytest.raises(ValueError, match=message):
            bench(folder)
    (folder / "var_50genes.json").write_text(json.dumps({"genes": ["G01", "Actb"]}))
    with pytest.raises(KeyError, match=r"S\d: genes: 'Actb' are not in the table"):
        bench(folder)
