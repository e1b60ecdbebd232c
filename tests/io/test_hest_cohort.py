"""Cohorts of a HEST-1k folder: what is chosen, what is known of samples, what is opened, and damaged files."""

from __future__ import annotations

import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers.hest.folder import MPP, Colours, facts_of, write_folder, write_patches
from spatialdata import read_zarr
from spatialdata.transformations import Scale, get_transformation

import spade as sp
from spade._samples.open import as_list, iter_samples
from spade.io._cohort.hest_cohort import _excluded, _patients
from spade.io._cohort.known import known_samples


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The eight samples; not to be changed."""
    return write_folder(tmp_path_factory.mktemp("hest"))


@pytest.fixture
def copied(folder, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(folder, tmp_path / "hest"))


def names(cohort) -> list[str]:
    return [sample.name for sample in cohort]


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ({}, "12345678"),
        ({"organ": "Brain"}, "67"),
        ({"species": "Mus musculus"}, "7"),
        ({"technology": ["Xenium", "Visium"], "disease": "Healthy"}, "7"),
        ({"disease": "IDC", "min_genes": 17_943}, "12346"),
        ({"min_genes": 17_944}, "7"),
        ({"exclude": "spade"}, "1234"),
        ({"exclude": ["spade", "TENX2"]}, "134"),
        ({"exclude": "hest_bench"}, "12345678"),
    ],
)
def test_choices(folder, choice, numbers):
    assert names(sp.io.hest_cohort(folder, **choice)) == [f"TENX{n}" for n in numbers]


def test_what_obs_says_of_a_sample(folder, caplog):
    with caplog.at_level(logging.INFO, "spade"):
        cohort = sp.io.hest_cohort(folder)
    assert "the table names no patient for 4 of 8 samples" in caplog.text
    with caplog.at_level(logging.INFO, "spade"):
        caplog.clear()
        assert len([sample.open() for sample in sp.io.hest_cohort(folder, organ="Brain")]) == 2
    assert "for 1 of 2 samples" in caplog.text
    assert "TENX7: the metadata" not in caplog.text  # said once, of all samples
    assert repr(cohort[0]) == "HestSample TENX1: Patient 1, Study A, Breast, Homo sapiens, Visium, Cancer, IDC, train"
    patients = [sample.columns["patient"] for sample in cohort]
    assert patients == ["Patient 1, Study A", "patient 1, Study B", "TENX3", "TENX4", "BC7", "BC7", "TENX7", "TENX8"]
    mouse = cohort[6].open()["table"].obs
    facts = {name: set(mouse[name]) for name in ("organ", "species", "technology", "disease_state", "split")}
    assert facts == {
        "organ": {"Brain"}, "species": {"Mus musculus"}, "technology": {"Visium"}, "disease_state": {"Healthy"},
        "split": {"train"},
    }  # fmt: skip
    assert mouse["oncotree_code"].isna().all()
    first = cohort[0].open()
    assert {"tissue", "cells", "spots", "image", "table"} <= {name for _, name, _ in first.gen_elements()}
    assert not (folder / "spade_stores").exists()  # nothing was computed


def test_a_tenth_of_every_organ_is_test_whatever_is_downloaded(folder):
    more = [facts_of((f"X{i}", "Breast", "Homo sapiens", "Visium", None, "S", 20_000)) for i in range(36)]
    table = pd.concat([sp.io.read_hest_metadata(folder), pd.DataFrame(more)], ignore_index=True)
    drawn = [sp.io.hest_cohort(folder, metadata=table, exclude="spade", rng=seed) for seed in range(8)]
    assert {tuple(names(cohort)) for cohort in drawn} == {("TENX1", "TENX2", "TENX3", "TENX4")}
    for seed, cohort in enumerate(drawn):
        dealt = sp.io.spade_samples(table, rng=seed).set_index("id")["split"]
        assert [sample.columns["split"] for sample in cohort] == dealt[names(cohort)].tolist()
    assert any("test" in {sample.columns["split"] for sample in cohort} for cohort in drawn)


@pytest.mark.realdata
def test_known_facts_fit_the_real_table(data_dir):
    path = data_dir / "hest" / "HEST_v1_1_0.csv"
    if not path.is_file():
        pytest.skip("the table of HEST-1k is not there")
    table, facts = sp.io.read_hest_metadata(path).set_index("id"), known_samples()
    assert set(facts["id"]) <= set(table.index)
    assert (facts["source"] != "").all()
    assert not facts.duplicated(["id", "fact"]).any()
    assert (facts["fact"] == "hest_bench").sum() == 72  # as many rows as the test parts of the benchmark's splits have
    twins = facts[facts["fact"] == "duplicate"]
    one, other = table.loc[twins["id"]], table.loc[twins["value"]]
    for column in ("fullres_px_width", "fullres_px_height"):
        assert (one[column].to_numpy() == other[column].to_numpy()).all()
    np.testing.assert_allclose(one["pixel_size_um_estimated"], other["pixel_size_um_estimated"], rtol=0.01)
    sizes = table.reset_index()[["id", "dataset_title", "fullres_px_width", "fullres_px_height", "spots_under_tissue"]]
    pairs = sizes.merge(sizes, on=["fullres_px_width", "fullres_px_height"])
    alike = (pairs["spots_under_tissue_x"] - pairs["spots_under_tissue_y"]).abs() <= 2
    pairs = pairs[alike & (pairs["dataset_title_x"] < pairs["dataset_title_y"])]
    listed = set(map(frozenset, zip(twins["id"], twins["value"], strict=True)))
    assert {frozenset(pair) for pair in zip(pairs["id_x"], pairs["id_y"], strict=True)} < listed
    pitch = table.loc[facts[facts["fact"] == "pitch"]["id"]]
    assert (pitch["inter_spot_dist"] < pitch["spot_diameter"]).all()
    assert sorted(pitch.index) == sorted(table.index[table["inter_spot_dist"] < table["spot_diameter"]])


def with_known(copied, ids):
    """The table with other ids for its samples, and their files."""
    table = sp.io.read_hest_metadata(copied)
    for old, new in zip(table["id"].tolist(), ids, strict=False):
        for kind, suffix in (("wsis", ".tif"), ("st", ".h5ad"), ("metadata", ".json")):
            (copied / kind / f"{old}{suffix}").rename(copied / kind / f"{new}{suffix}")
        table["id"] = table["id"].replace(old, new)
    return table


def test_known_problems(copied, caplog):
    table = with_known(copied, ["MEND51", "NCBI537", "NCBI784", "TENX153", "NCBI535", "INT1"])
    with caplog.at_level(logging.INFO, "spade"):
        cohort = sp.io.hest_cohort(copied, metadata=table)
    # NCBI535 stays, as the sample that it repeats is not there
    assert names(cohort) == ["MEND51", "TENX153", "NCBI535", "INT1", "TENX7", "TENX8"]
    assert "NCBI537 (as MEND51); wrong scale: NCBI784" in caplog.text
    assert cohort[1].columns["patient"] == "10x colorectal P3"
    assert names(sp.io.hest_cohort(copied, metadata=table, problems="keep"))[:3] == ["MEND51", "NCBI537", "NCBI784"]
    assert "INT1" not in names(sp.io.hest_cohort(copied, metadata=table, exclude="hest_bench"))


@pytest.mark.realdata
def test_patients_of_the_real_table(data_dir, caplog):
    """One patient has one name, also where the table has several studies of it; none of the benchmark's is left."""
    path = data_dir / "hest" / "HEST_v1_1_0.csv"
    if not path.is_file():
        pytest.skip("the table of HEST-1k is not there")
    table = sp.io.read_hest_metadata(path)
    patient = dict(zip(table["id"], _patients(table), strict=True))
    groups = (
        ["TENX147", "TENX154"], ["TENX148", "TENX152", "TENX155", "TENX128"], ["TENX149", "TENX156"], ["TENX153"],
        ["TENX94", "TENX96"], ["TENX95", "TENX97"], ["TENX98", "TENX99"], ["SPA119", "SPA121", "SPA93", "SPA95"],
        ["SPA128", "SPA102"], ["SPA145"], ["NCBI783"], ["NCBI784", "NCBI785"],
    )  # fmt: skip
    found = [{patient[name] for name in group} for group in groups]
    assert [len(one) for one in found] == [1] * len(groups)
    assert len(set.union(*found)) == len(groups)
    with caplog.at_level(logging.INFO, "spade"):
        kept = table[~_excluded(table, "hest_bench")]
    gone = set(table["id"]) - set(kept["id"])
    assert {"TENX95", "TENX97", "TENX98", "TENX128", "TENX152", "NCBI784"} <= gone
    assert len(gone) == 80 and not {patient[name] for name in gone} & {patient[name] for name in kept["id"]}
    assert "also of its patients, or the same section: NCBI784, TENX128" in caplog.text


def test_spots_that_would_overlap_have_no_pitch(copied, caplog):
    file = copied / "metadata" / "TENX1.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"inter_spot_dist": 110, "spot_diameter": 150}))
    with caplog.at_level(logging.INFO, "spade"):
        sdata = sp.io.read_hest(copied, "TENX1")
    assert "spots of 150 µm, 110 µm apart, which cannot be" in caplog.text
    assert sdata.attrs["spade"]["pitch_um"] == {}


def test_newest_table_and_old_layout(copied):
    (copied / "HEST_v1_1_0.csv").rename(copied / "metadata" / "HEST_v1_0_0.csv")
    assert len(sp.io.hest_cohort(copied)) == 8
    newer = sp.io.read_hest_metadata(copied / "metadata" / "HEST_v1_0_0.csv").iloc[:3]
    newer.to_csv(copied / "HEST_v1_10_0.csv", index=False)
    with pytest.warns(UserWarning, match=r"5 samples are not in the table and are left out: 'TENX4', 'TENX5'"):
        assert len(sp.io.hest_cohort(copied)) == 3


def test_patches_stand_in_for_a_slide(copied):
    with_slide = sp.io.read_hest(copied, "TENX3")
    picture = tifffile.imread(copied / "wsis" / "TENX3.tif")
    write_patches(copied, "TENX3", leave_out=2)
    with pytest.warns(UserWarning, match=r"TENX3: 2 of 36 spots have no patch in 'TENX3.h5', as off the tissue"):
        sdata = sp.io.hest_cohort(copied, exclude="spade")[2].open()
    assert list(sdata["table"].obs_names) == list(with_slide["table"].obs_names[2:])
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], with_slide["table"].obsm["spatial"][2:])
    assert sdata.attrs["spade"]["mpp"] == {"image": MPP}  # 112 µm in 140 pixels
    scale = get_transformation(sdata["image"], "global")
    assert isinstance(scale, Scale)
    np.testing.assert_allclose(scale.scale, 1)
    image = np.moveaxis(sdata["image"]["scale0"]["image"].to_numpy(), 0, -1)
    x, y = np.rint(sdata["table"].obsm["spatial"][10] - 70).astype(int)
    np.testing.assert_array_equal(image[y : y + 140, x : x + 140], picture[y : y + 140, x : x + 140])
    side = sdata["image"]["scale0"]["image"].data
    np.testing.assert_array_equal(side[:, 300:420, 77:501].compute(), np.moveaxis(image, -1, 0)[:, 300:420, 77:501])


def test_patches_of_another_size_give_the_same_features_nearly(copied):
    """HEST's patches were 256 pixels wide once; 70 pixels here, half of the slide's own resolution."""
    features = []
    for number in range(2):
        if number:
            write_patches(copied, "TENX4")
            with h5py.File(copied / "patches" / "TENX4.h5", "a") as file:
                halved = file["img"][:].reshape(36, 70, 2, 70, 2, 3).mean((2, 4)).astype(np.uint8)
                del file["img"]
                file["imgs"] = halved
        sample = sp.io.read_hest(copied, "TENX4")
        assert sample.attrs["spade"]["mpp"] == {"image": 1.6 if number else MPP}
        sp.pp.patches(sample, size_px=70)
        sp.pp.encode_patches(sample, Colours())
        features.append(sample["table"].obsm["X_colours"][:, :3])
    assert np.abs(features[0] - features[1]).max() < 0.02 < np.ptp(features[0], axis=0).min()


def change(path, **datasets):
    with h5py.File(path, "a") as file:
        for name, values in datasets.items():
            del file[name]
            if values is not None:
                file[name] = values


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        ({"img": None}, "expected img, barcode and coords"),
        ({"barcode": np.array([b"S0-0-1"] * 36)}, "barcodes of patches occur more than once, such as 'S0-0-1'"),
        ({"barcode": np.array([f"Z{i}" for i in range(36)], dtype="S")}, "no spot of st/TENX1.h5ad has a patch"),
        ({"img": np.zeros((36, 8, 9, 3), np.uint8)}, r"img is uint8 \(36, 8, 9, 3\); expected uint8"),
        ({"coords": np.arange(72).reshape(36, 2) ** 2}, "lie more than half the distance between spots away"),
    ],
    ids=["no images", "barcode twice", "another sample", "not square", "elsewhere"],
)
def test_patches_that_do_not_fit(copied, datasets, said):
    write_patches(copied, "TENX1")
    change(copied / "patches" / "TENX1.h5", **datasets)
    with pytest.raises(ValueError, match=said):
        sp.io.read_hest(copied, "TENX1")


@pytest.mark.parametrize("name", ["wsis/TENX2.tif", "st/TENX2.h5ad", "metadata/TENX2.json"])
def test_a_file_that_was_cut_off_amid_a_cohort(copied, name):
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    stops, goes_on = (sp.io.hest_cohort(copied, exclude="spade", on_damaged=how) for how in ("error", "skip"))
    with pytest.raises(ValueError, match=r"TENX2.*(again|damaged)"):
        list(iter_samples(stops))
    listed = as_list(goes_on)
    left_out = pytest.warns(UserWarning, match=r"TENX2: left out, as it cannot be read\. .*TENX2\.")
    for said in (left_out, nullcontext()):
        with said:  # the rows of a sample are those of its own place in the list; one warning for one list
            assert [sample.name for sample in iter_samples(listed)] == ["TENX1", "TENX3", "TENX4"]


def test_a_sample_that_lacks_a_file(copied):
    (copied / "st" / "TENX2.h5ad").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 sample lack a file: 'TENX2'.*on_damaged=\"skip\""):
        sp.io.hest_cohort(copied)
    with pytest.warns(UserWarning, match="1 sample lack a file: 'TENX2', and are left out"):
        assert "TENX2" not in names(sp.io.hest_cohort(copied, on_damaged="skip"))


def test_what_cannot_be_chosen(folder, tmp_path):
    cohort = sp.io.hest_cohort
    for arguments, error, said in (
        ({"organ": "breast"}, ValueError, "organ: 'breast' is not in the table; there are 'Brain', 'Breast'"),
        ({"exclude": "TENX99"}, ValueError, "exclude: 'TENX99' is neither the id of a sample"),
        ({"species": 3}, TypeError, "species=3: expected a text, or a list of texts"),
        ({"organ": []}, TypeError, r"organ=\[\]: expected a text"),
        ({"min_genes": 99_999}, ValueError, "none of 8 samples fits .*min_genes=99999"),
        ({"min_genes": -1}, ValueError, "min_genes=-1"),
        ({"on_damaged": "ignore"}, ValueError, "on_damaged='ignore'"),
        ({"problems": None}, ValueError, "problems=None"),
    ):
        with pytest.raises(error, match=said):
            cohort(folder, **arguments)
    with pytest.raises(FileNotFoundError, match=r"is not a folder; sp\.datasets\.hest downloads"):
        cohort(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="holds no table"):
        cohort(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"none of the 8 samples of this choice, such as 'TENX1', .*datasets\.hest"
    ):
        cohort(tmp_path, metadata=folder / "HEST_v1_1_0.csv")


def test_a_store_of_another_expression_file_is_not_used(copied):
    (sample,) = sp.io.hest_cohort(copied, organ="Brain", species="Homo sapiens")
    sp.pp.patches(sample)
    assert "patches" in sample.open().shapes
    adata = ad.read_h5ad(copied / "st" / "TENX6.h5ad")
    adata[:20].write_h5ad(copied / "st" / "TENX6.h5ad")
    with pytest.raises(ValueError, match=r"TENX6: .*TENX6\.zarr' was made of another st/TENX6\.h5ad"):
        sample.open()


def test_an_expression_file_of_the_same_size_is_known_by_its_content(copied, tmp_path):
    (sample,) = sp.io.hest_cohort(copied, organ="Brain", species="Homo sapiens")
    sp.pp.patches(sample)
    moved = Path(shutil.copytree(copied, tmp_path / "moved"))
    (moved / "st" / "TENX6.h5ad").touch()
    (elsewhere,) = sp.io.hest_cohort(moved, organ="Brain", species="Homo sapiens")
    assert "patches" in elsewhere.open().shapes  # a copy is the same file, whatever its time
    file = copied / "st" / "TENX6.h5ad"
    size = file.stat().st_size
    with h5py.File(file, "r+") as opened:
        opened["obsm/spatial"][...] = opened["obsm/spatial"][...][::-1]
    assert file.stat().st_size == size
    with pytest.raises(
        ValueError, match=r"TENX6: .*TENX6\.zarr' was made of another st/TENX6\.h5ad\. Remove the store"
    ):
        sample.open()


def test_a_store_follows_a_newer_table_but_keeps_what_others_wrote(copied):
    cohort = sp.io.hest_cohort(copied, organ="Brain")
    sp.pp.patches(cohort)
    sp.pp.label_patches(cohort[1], pd.DataFrame({"sample": ["TENX7"], "disease_state": ["Healthy"]}))
    table = sp.io.read_hest_metadata(copied)
    changed = {"patient": "P9", "dataset_title": "Study E", "disease_state": None, "oncotree_code": "GBM"}
    table.loc[table["id"].isin(["TENX6", "TENX7"]), list(changed)] = list(changed.values())

    def stated(samples):
        obs = pd.concat([sample.open(tables_only=True)["table"].obs for sample in samples])
        return [sorted(set(obs[name].astype(object).fillna("none"))) for name in ("patient", "disease_state")]

    assert stated(cohort) == [["BC7", "TENX7"], ["Cancer", "Healthy"]]
    newer = sp.io.hest_cohort(copied, metadata=table, organ="Brain")
    assert stated(newer) == [["P9"], ["Healthy", "none"]]  # what label_patches wrote stays
    with pytest.raises(ValueError, match=r"1 group of obs\['patient'\] cannot fill 2 parts .*P9"):
        sp.pp.split(newer, groupby="patient", fractions=(0.5, 0, 0.5))
    sp.pp.patches(newer)  # saves what the table says now
    for sample in newer:
        obs = read_zarr(sample.store)["table"].obs
        assert set(obs["patient"]) == {"P9"}
        assert set(obs["oncotree_code"]) == {"GBM"}
    assert stated(sp.io.hest_cohort(copied, organ="Brain")) == [["BC7", "TENX7"], ["Cancer", "Healthy"]]
    own = read_zarr(newer[0].store)
    own["table"].obs["patient"] = pd.Categorical(["mine"] * own["table"].n_obs)
    sp.io.write(own, newer[0].store)
    assert stated(newer) == [["P9", "mine"], ["Healthy", "none"]]


def test_a_store_of_another_scale_is_not_used(copied):
    (sample,) = sp.io.hest_cohort(copied, organ="Brain", species="Homo sapiens")
    sp.pp.patches(sample)
    file = copied / "metadata" / "TENX6.json"
    facts = json.loads(file.read_text())
    file.write_text(json.dumps(facts | {"pixel_size_um_estimated": MPP * 1.04}))  # within what the lattice allows
    with pytest.raises(
        ValueError, match=r"TENX6: .*TENX6\.zarr' was made of a picture at 0\.8 µm/px, .* has 0\.832 now"
    ):
        sample.open()


def test_features_are_made_anew_of_a_slide_that_was_replaced(copied, caplog):
    (sample,) = sp.io.hest_cohort(copied, organ="Brain", species="Homo sapiens")
    sp.pp.patches(sample)
    sp.pp.encode_patches(sample, Colours())
    before = sample.open()["table"].obsm["X_colours"]
    caplog.set_level(logging.INFO, "spade")
    sp.pp.encode_patches(sample, Colours())
    assert "obsm['X_colours'] is there" in caplog.text
    slide = copied / "wsis" / "TENX6.tif"
    tifffile.imwrite(slide, 255 - tifffile.imread(slide), photometric="rgb")
    sp.pp.encode_patches(sample, Colours())
    after = sample.open()["table"].obsm["X_colours"]
    np.testing.assert_allclose(after[:, :3], 1 - before[:, :3], atol=0.01)
