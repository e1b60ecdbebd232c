"""The protocol of HEST-Bench as it is run, the sound one beside it, and folders as they are published, whole and broken."""

from __future__ import annotations

import json
import shutil

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from helpers.sections import GENES, featured, spoil, through_csv
from scipy.sparse import csr_matrix
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

import spade as sp
from spade.core.expression.normalise import log_normalise
from spade.core.expression.ridge import ALPHAS

N_GENES = 20


def cohort(n=4):
    """Four sections of two patients; patient_1's are a and b."""
    samples = [featured(name="abcd"[i], seed=i) for i in range(n)]
    for i, sample in enumerate(samples):
        sample["table"].obs["patient"] = f"patient_{i // 2}"
        rates = np.abs(sample["table"].obsm["X_f"][:, :1]) * np.linspace(0, 2, len(GENES))
        counts = np.random.default_rng(i).poisson(rates + 0.5)
        sample["table"].X = csr_matrix(counts, dtype=np.float32)
    return samples


def run(samples, **options):
    return sp.tl.expression_benchmark(samples, **{"use_rep": "X_f", "n_genes": N_GENES, **options})


def stacked(samples, genes):
    return np.concatenate([one["table"].X.toarray()[:, [GENES.index(g) for g in genes]] for one in samples]).astype(
        float
    )


# --- the protocols


def test_hest_is_the_published_protocol_step_by_step():
    samples = cohort()
    table = run(samples, protocol="hest")
    # genes: of all samples, found in a tenth of the spots of each, alphabetical, log1p, default flavour
    names = sorted(g for i, g in enumerate(GENES) if all((s["table"].X[:, i] > 0).sum() >= 4 for s in samples))
    pool = ad.AnnData(np.log1p(stacked(samples, names)).astype(np.float32), var=pd.DataFrame(index=names))
    sc.pp.highly_variable_genes(pool, n_top_genes=N_GENES)
    genes = pool.var_names[pool.var["highly_variable"]][:N_GENES].tolist()
    assert table[table["fold"] == "patient_0"]["gene"].tolist() == genes
    for fold, test, train in (("patient_0", samples[:2], samples[2:]), ("patient_1", samples[2:], samples[:2])):
        x, query = (np.concatenate([one["table"].obsm["X_f"] for one in part]) for part in (train, test))
        scaler = StandardScaler().fit(x)
        pca = PCA(n_components=8, random_state=1).fit(scaler.transform(x))  # all there are, of the 256 it asks for
        x, query = (pca.transform(scaler.transform(part)) for part in (x, query))
        y, truth = (np.log1p(stacked(part, genes)) for part in (train, test))
        alpha = 100 / (8 * N_GENES)
        theirs = Ridge(solver="lsqr", alpha=alpha, random_state=1, fit_intercept=False, max_iter=1000).fit(x, y)
        wanted = [pearsonr(truth[:, g], theirs.predict(query)[:, g])[0] for g in range(N_GENES)]
        own = table[table["fold"] == fold]
        np.testing.assert_allclose(own["pearson"], wanted, atol=1e-4)
        assert set(own["alpha"]) == {alpha}
        assert set(own["n_spots"]) == {72}
        assert set(own["section"]) == {""}


def test_sound_chooses_genes_and_penalty_on_training_sections_and_scores_within_sections():
    samples = cohort()
    table = run(samples, protocol="sound")
    assert set(zip(table["fold"], table["section"], strict=True)) == {
        ("patient_0", "a"), ("patient_0", "b"), ("patient_1", "c"), ("patient_1", "d"),
    }  # fmt: skip
    own = table[table["section"] == "a"]
    genes, alpha = own["gene"].tolist(), own["alpha"].iloc[0]
    assert alpha in ALPHAS
    x = np.concatenate([one["table"].obsm["X_f"] for one in samples[2:]]).astype(float)

    def expression(part):
        columns = [GENES.index(g) for g in genes]
        return np.concatenate([log_normalise(one["table"].X.tocsr()).toarray()[:, columns] for one in part])

    scaler = StandardScaler().fit(x)
    theirs = Ridge(alpha=alpha).fit(scaler.transform(x), expression(samples[2:]))
    predicted = theirs.predict(scaler.transform(samples[0]["table"].obsm["X_f"].astype(float)))
    truth = expression(samples[:1])
    wanted = [pearsonr(truth[:, g], predicted[:, g])[0] for g in range(N_GENES)]
    np.testing.assert_allclose(own["pearson"], wanted, atol=1e-4)


def test_what_is_held_out_changes_nothing_that_is_learned():
    """Other counts in the test sections: the sound protocol keeps its genes and penalties, HEST-Bench does not keep its genes."""
    samples, changed = cohort(), cohort()
    rng = np.random.default_rng(0)
    for sample in changed[:2]:
        sample["table"].X = csr_matrix(rng.poisson(np.linspace(9, 0.6, len(GENES)), (36, len(GENES))), dtype=np.float32)
    before, after = run(samples), run(changed)
    for protocol, same in (("sound", True), ("hest", False)):
        one, other = (t[(t["protocol"] == protocol) & (t["fold"] == "patient_0")] for t in (before, after))
        assert (one["gene"].tolist() == other["gene"].tolist()) == same
        if same:
            assert one["alpha"].tolist() == other["alpha"].tolist()


def test_differences_between_sections_count_only_in_hest():
    """A feature that tells sections apart and nothing else: HEST-Bench rewards it, correlation within sections does not."""
    samples = cohort()
    rng = np.random.default_rng(0)
    for i, sample in enumerate(samples):
        level = 1.0 + 9 * (i % 2)
        sample["table"].X = csr_matrix(rng.poisson(level, (36, len(GENES))), dtype=np.float32)
        sample["table"].obsm["X_f"] = (level + 0.01 * rng.normal(size=(36, 3))).astype(np.float32)
    means = run(samples, target_sum=None).groupby("protocol")["pearson"].mean()
    assert means["hest"] > 0.7
    assert abs(means["sound"]) < 0.2


def test_several_representations_on_the_same_genes_and_given_genes():
    samples = cohort()
    for i, sample in enumerate(samples):
        sample["table"].obsm["X_noise"] = np.random.default_rng(50 + i).normal(size=(36, 4)).astype(np.float32)
    spoil(samples[0], "X_noise", [0])
    reps = {"f": "X_f", "noise": "X_noise", "both": ("X_f", "X_noise")}
    table = run(samples, use_rep=reps, genes=GENES[5:9])
    assert set(table["gene"]) == set(GENES[5:9])
    assert len(table) == 3 * 4 * (2 + 4)
    assert set(table.loc[table["section"] == "a", "n_spots"]) == {35}
    summary = sp.tl.expression_summary(table).set_index(["protocol", "representation"])
    assert summary.loc[("sound", "f"), "pearson"] > summary.loc[("sound", "noise"), "pearson"] + 0.1
    assert summary.loc[("sound", "f"), "n_units"] == 4
    assert summary.loc[("hest", "f"), "n_units"] == 2


def test_one_training_section_takes_patches():
    samples = cohort(2)
    with pytest.raises(ValueError, match=r"[ab] is the only training section of a fold and has no patches"):
        run(samples, groupby=None, protocol="sound")
    sp.pp.patches(samples, size_um=40)
    assert set(run(samples, groupby=None)["fold"]) == {"a", "b"}


def test_genes_without_variance_are_nan_and_counted():
    samples = cohort()
    for sample in samples:
        counts = sample["table"].X.tolil()
        counts[:, 3] = 0
        sample["table"].X = counts.tocsr()
    table = run(samples, genes=GENES[2:5], target_sum=None)
    assert table.loc[table["gene"] == GENES[3], "pearson"].isna().all()
    assert table.loc[table["gene"] != GENES[3], "pearson"].notna().all()
    summary = sp.tl.expression_summary(table)
    assert summary["n_missing"].tolist() == [2, 4]
    by_gene = sp.tl.expression_summary(table, by="gene")
    assert by_gene.groupby("protocol")["gene"].last().tolist() == [GENES[3]] * 2
    assert np.isnan(by_gene.loc[by_gene["gene"] == GENES[3], "pearson"]).all()


def test_summary_by_hand():
    rows = [
        {"protocol": "sound", "representation": "X", "fold": s, "section": s, "gene": g, "pearson": p}
        for s, values in {"a": (0.1, 0.3), "b": (0.5, np.nan)}.items()
        for g, p in zip("gh", values, strict=True)
    ]
    (row,) = sp.tl.expression_summary(pd.DataFrame(rows)).to_dict("records")
    assert row["pearson"] == pytest.approx((0.2 + 0.5) / 2)
    assert (row["low"], row["high"]) == (pytest.approx(0.2), pytest.approx(0.5))
    assert (row["n_units"], row["n_missing"]) == (2, 1)
    by_gene = sp.tl.expression_summary(pd.DataFrame(rows), by="gene").set_index("gene")
    assert by_gene.loc["g", "pearson"] == pytest.approx(0.3)
    assert np.isnan(by_gene.loc["h", "low"])
    for table, error in ((rows, TypeError), (pd.DataFrame(rows).drop(columns="fold"), ValueError)):
        with pytest.raises(error, match="table"):
            sp.tl.expression_summary(table)
    with pytest.raises(ValueError, match="by='fold'"):
        sp.tl.expression_summary(pd.DataFrame(rows), by="fold")


def test_results_from_a_file_have_the_same_summary():
    table = run(cohort(), protocol="hest")
    assert (table["section"] == "").all()
    summaries = [sp.tl.expression_summary(one) for one in (table, through_csv(table))]
    assert summaries[0].loc[0, "n_units"] == 2
    pd.testing.assert_frame_equal(*summaries)


def test_what_is_asked_for_is_checked():
    samples = cohort()
    for message, options in (
        ("protocol='best': expected", {"protocol": "best"}),
        ("use_rep=None: name an obsm key", {"use_rep": None}),
        ("n_genes=0", {"n_genes": 0}),
        ("n_genes=1000: only .* genes are in every section", {"n_genes": 1000}),
        ("expected a tuple|several values", {"groupby": "organ"}),
    ):
        with pytest.raises(ValueError, match=message):
            run(samples, **options)
    with pytest.raises(ValueError, match="all sections are of 'patient_0', so none can be held out"):
        run(samples[:2])
    with pytest.raises(KeyError, match=r"a: genes: 'nope' are not in the table"):
        run(samples, genes=[GENES[0], "nope"])
    with pytest.raises(KeyError, match="groupby='donor' is not in obs"):
        run(samples, groupby="donor")
    samples[0]["table"].X = samples[0]["table"].X * 0.5
    with pytest.raises(ValueError, match="not whole numbers"):
        run(samples)


# --- a folder of HEST-Bench


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
    with pytest.raises(ValueError, match="S2: patches are 32 px wide, but encoder 'shade' reads 224"):
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
    with pytest.raises(ValueError, match=r"S0: .*cannot be read as|is damaged|lacks the columns|has missing values"):
        bench(folder)
    (folder / name).write_bytes(b"")
    with pytest.raises(ValueError, match=r"S0: .*cannot be read as|is damaged|cannot be read as CSV"):
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
        ({"coords": lambda v: v[::-1]}, r"S0: \d+ of 30 patches lie elsewhere than the spot of the same barcode"),
        ({"barcode": lambda v: v[::-1]}, "patches lie elsewhere"),
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
