"""The synthetic cohort: form, determinism, and the signals that it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import spatialdata as sd
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from spatialdata.models import Image2DModel, ShapesModel, TableModel, get_table_keys
from spatialdata.transformations import Identity, get_transformation

import spade as sp
from spade.core.spots.lattice import check_pitch, spot_pitch, visium_mpp
from spade.datasets import _render, _tissue
from spade.io._recorded.frames import frame_of

if TYPE_CHECKING:
    from pathlib import Path

    from spatialdata import SpatialData

N_SPOTS = 150


@pytest.fixture(scope="module")
def cohort() -> list[SpatialData]:
    return sp.datasets.toy(n_samples=4, n_spots=N_SPOTS, n_genes=200)


def pixels(sample: SpatialData, level: int = 0) -> np.ndarray:
    return np.asarray(sample["image"][f"scale{level}"]["image"].data)


def features(sample: SpatialData) -> np.ndarray:
    """Simple statistics of the 224 px patch of each spot."""
    image, rows = pixels(sample), []
    for x, y in sample["table"].obsm["spatial"].astype(int):
        patch = image[:, y - 112 : y + 112, x - 112 : x + 112]
        assert patch.shape == (3, 224, 224)
        density = -np.log((patch + 1.0) / 256)
        red = density[0]
        edges = np.abs(np.diff(red, axis=0)).mean(), np.abs(np.diff(red, axis=1)).mean()
        dark, pale = np.mean(red > 0.7), np.mean(density.sum(axis=0) < 0.25)
        rows.append([*patch.mean((1, 2)), *patch.std((1, 2)), *edges, dark, pale, *np.quantile(red, [0.1, 0.5, 0.9])])
    return np.array(rows)


def log_counts(sample: SpatialData) -> np.ndarray:
    counts = sample["table"].X.toarray()
    return np.log1p(counts / counts.sum(axis=1, keepdims=True) * 1e4)


@pytest.fixture(scope="module")
def views(cohort: list[SpatialData]) -> dict[str, np.ndarray]:
    return {
        "image": np.vstack([features(sample) for sample in cohort]),
        "expression": np.vstack([log_counts(sample) for sample in cohort]),
    }


@pytest.fixture(scope="module")
def obs(cohort: list[SpatialData]) -> pd.DataFrame:
    return pd.concat([sample["table"].obs.astype({"patient": str}) for sample in cohort])


def test_follows_the_conventions(cohort: list[SpatialData]) -> None:
    assert len(cohort) == 4
    for i, sample in enumerate(cohort):
        Image2DModel().validate(sample["image"])
        ShapesModel().validate(sample["spots"])
        TableModel().validate(sample["table"])
        table, image = sample["table"], sample["image"]
        full = image["scale0"]["image"]
        assert list(image) == ["scale0", "scale1", "scale2", "scale3"]
        assert full.dims == ("c", "y", "x")
        assert full.dtype == np.uint8
        assert list(full.coords["c"].values) == ["r", "g", "b"]
        assert full.data.chunksize == (3, 512, 512)
        assert get_table_keys(table) == ("spots", "region", "spot_id")
        assert list(table.obs_names) == list(table.obs["spot_id"]) == list(sample["spots"].index)
        assert sample["spots"].index.name is None
        xy = np.column_stack([sample["spots"].geometry.x, sample["spots"].geometry.y])
        np.testing.assert_array_equal(table.obsm["spatial"], xy)
        assert table.obsm["spatial"].dtype == np.float64
        for element in (image, sample["spots"]):
            assert get_transformation(element, "global") == Identity()
        for key in ("domain", "patient", "organ", "region"):
            assert isinstance(table.obs[key].dtype, pd.CategoricalDtype)
        assert sample.attrs["spade"] == {
            "sample": f"toy_{i}",
            "mpp": {"image": 0.5},
            "frames": {"image": frame_of(sample["image"])},
            "pitch_um": {"spots": 100.0},
        }
    assert [sample["table"].obs["patient"].unique().tolist() for sample in cohort] == [
        [f"patient_{i}"] for i in range(4)
    ]
    organs = [sample["table"].obs["organ"].iloc[0] for sample in cohort]
    assert organs[0] != organs[1]
    assert organs[:2] == organs[2:]


def test_lattice_is_that_of_visium_and_no_patch_leaves_the_image(cohort: list[SpatialData]) -> None:
    for sample in cohort:
        xy, spots = sample["table"].obsm["spatial"], sample["spots"]
        assert visium_mpp(xy, spots["radius"].to_numpy()) == pytest.approx(0.5)
        check_pitch(spot_pitch(xy), 0.5, 100, "toy")
        _, height, width = pixels(sample).shape
        assert xy.min() >= 112
        assert (xy[:, 0] <= width - 112).all()
        assert (xy[:, 1] <= height - 112).all()


def test_levels_are_means_of_four_pixels(cohort: list[SpatialData]) -> None:
    for level in (1, 2, 3):
        fine, coarse = pixels(cohort[0], level - 1).astype(float), pixels(cohort[0], level)
        _, height, width = coarse.shape
        assert fine.shape == (3, 2 * height, 2 * width)
        mean = fine.reshape(3, height, 2, width, 2).mean(axis=(2, 4))
        assert np.abs(mean - coarse).max() <= 0.5


def test_counts_are_raw_and_overdispersed(cohort: list[SpatialData]) -> None:
    for sample in cohort:
        table = sample["table"]
        assert table.X.format == "csr"
        assert table.X.dtype == np.float32
        assert table.shape == (N_SPOTS, 200)
        counts = table.X.toarray()
        assert (counts >= 0).all()
        assert (counts == np.round(counts)).all()
        assert (counts.sum(axis=1) > 0).all()
        assert 0.1 < np.mean(counts == 0) < 0.8
        house = counts[:, table.var["program"] == "housekeeping"]
        assert np.median(house.var(axis=0) / house.mean(axis=0)) > 1.1
    names = [sample["table"].var_names for sample in cohort]
    assert all(name.equals(names[0]) for name in names)
    programs = set(cohort[0]["table"].var["program"])
    domains = set(cohort[0]["table"].obs["domain"].cat.categories)
    assert programs == domains | {"colon", "thyroid", "cell_density", "inflammation", "housekeeping"}


def test_survives_a_round_trip(cohort: list[SpatialData], tmp_path: Path) -> None:
    cohort[1].write(tmp_path / "toy.zarr")
    back = sd.read_zarr(tmp_path / "toy.zarr")
    for level in range(4):
        np.testing.assert_array_equal(pixels(back, level), pixels(cohort[1], level))
    pd.testing.assert_frame_equal(back["spots"].drop(columns="geometry"), cohort[1]["spots"].drop(columns="geometry"))
    old, new = cohort[1]["table"], back["table"]
    np.testing.assert_array_equal(new.X.toarray(), old.X.toarray())
    for key in old.obs:
        assert new.obs[key].tolist() == old.obs[key].tolist()
    assert new.var["program"].tolist() == old.var["program"].tolist()
    assert back.attrs["spade"] == cohort[1].attrs["spade"]


def test_same_seed_same_bytes_and_samples_stand_alone() -> None:
    few, many = sp.datasets.toy(1, 12, 40, rng=3), sp.datasets.toy(2, 12, 40, rng=3)
    other = sp.datasets.toy(1, 12, 40, rng=4)
    np.testing.assert_array_equal(pixels(few[0]), pixels(many[0]))
    np.testing.assert_array_equal(few[0]["table"].X.toarray(), many[0]["table"].X.toarray())
    pd.testing.assert_frame_equal(few[0]["table"].obs, many[0]["table"].obs)
    pd.testing.assert_frame_equal(few[0]["table"].var, many[0]["table"].var)
    assert np.mean(pixels(few[0]) != pixels(other[0])) > 0.5
    assert (few[0]["table"].X != other[0]["table"].X).nnz > 50
    assert np.mean(pixels(many[0]) != pixels(many[1])) > 0.5


def test_a_generator_seeds_one_cohort_after_another() -> None:
    rng = np.random.default_rng(5)
    first, second = sp.datasets.toy(1, 4, 12, rng=rng)[0], sp.datasets.toy(1, 4, 12, rng=rng)[0]
    again = sp.datasets.toy(1, 4, 12, rng=np.random.default_rng(5))[0]
    np.testing.assert_array_equal(pixels(first), pixels(again))
    assert np.mean(pixels(first) != pixels(second)) > 0.5


@pytest.mark.parametrize("organ", _tissue.ORGANS)
def test_rendering_does_not_depend_on_chunks(organ: str) -> None:
    shape, size = (640, 560), (280.0, 320.0)
    tissue = _tissue.Tissue.draw(np.random.default_rng(1), organ, 7, size)
    scene = _tissue.build_scene(tissue, np.random.default_rng(2), size, 40.0)
    whole = _render.render(scene, shape, 0.5, chunk=1024)
    for chunk in (512, 97):
        np.testing.assert_array_equal(_render.render(scene, shape, 0.5, chunk=chunk), whole)


def test_resolution_and_pitch_can_be_chosen() -> None:
    fine, coarse = (sp.datasets.toy(1, 12, 40, mpp=mpp, pitch_um=200, rng=1)[0] for mpp in (0.5, 2.0))
    np.testing.assert_allclose(fine["table"].obsm["spatial"], 4 * coarse["table"].obsm["spatial"])
    np.testing.assert_array_equal(fine["table"].X.toarray(), coarse["table"].X.toarray())
    assert coarse.attrs["spade"]["mpp"] == {"image": 2.0}
    assert spot_pitch(coarse["table"].obsm["spatial"]) * 2.0 == pytest.approx(200)
    # the same tissue: the fine image's lower level shows what the coarse image does
    a, b = pixels(fine, 2), pixels(coarse)
    height, width = min(a.shape[1], b.shape[1]) - 16, min(a.shape[2], b.shape[2]) - 16
    assert np.corrcoef(a[:, :height, :width].ravel(), b[:, :height, :width].ravel())[0, 1] > 0.97


@pytest.mark.parametrize("n_domains", [1, 2, 9])
def test_any_number_of_domains(n_domains: int) -> None:
    table = sp.datasets.toy(1, 120, n_domains + 5, n_domains)[0]["table"]
    names = table.obs["domain"].cat.categories
    assert len(names) == len(set(names)) == n_domains
    assert set(table.obs["domain"]) == set(names)
    assert table.var["program"].nunique() >= n_domains + 4


def test_one_spot() -> None:
    for rng in range(5):
        for sample in sp.datasets.toy(2, 1, 9, 4, rng=rng):
            assert sample["table"].shape == (1, 9)
            assert pixels(sample).shape[1] >= 224


def test_later_domains_look_different() -> None:
    for organ in _tissue.ORGANS:
        looks = [_tissue.look(organ, k) for k in range(30)]
        assert len(set(looks)) == 30


@pytest.mark.parametrize(("view", "least"), [("image", 0.6), ("expression", 0.9)])
def test_domains_are_seen_across_patients(
    views: dict[str, np.ndarray], obs: pd.DataFrame, view: str, least: float
) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    guess = cross_val_predict(model, views[view], obs["domain"].astype(str), groups=obs["patient"], cv=GroupKFold(4))
    assert np.mean(guess == obs["domain"].astype(str)) > least


@pytest.mark.parametrize("state", ["cell_density", "inflammation"])
@pytest.mark.parametrize("view", ["image", "expression"])
def test_states_vary_within_a_domain_in_both_views(
    views: dict[str, np.ndarray], obs: pd.DataFrame, state: str, view: str
) -> None:
    assert obs[state].between(0, 1).all()
    found = []
    for _, rows in obs.reset_index().groupby(["domain", "organ"], observed=True):
        x, y = views[view][rows.index], rows[state].to_numpy()
        guess = cross_val_predict(make_pipeline(StandardScaler(), Ridge(30)), x, y, cv=4)
        found.append(np.corrcoef(guess, y)[0, 1])
    assert np.mean(found) > 0.35


def test_programs_follow_what_they_are_named_after(cohort: list[SpatialData]) -> None:
    table = cohort[0]["table"]
    mean = pd.DataFrame(log_counts(cohort[0]), columns=table.var_names).T.groupby(
        table.var["program"], observed=True
    ).mean().T  # fmt: skip
    for domain in table.obs["domain"].cat.categories:
        inside = (table.obs["domain"] == domain).to_numpy()
        assert mean.loc[inside, domain].mean() > mean.loc[~inside, domain].mean() + 0.3
    for state in ("cell_density", "inflammation"):
        assert np.corrcoef(mean[state], table.obs[state])[0, 1] > 0.4
    other = cohort[1]["table"]
    colon = (table.var["program"] == "colon").to_numpy()
    assert log_counts(cohort[0])[:, colon].mean() > log_counts(cohort[1])[:, colon].mean() + 0.3
    assert not table.obs["organ"].iloc[0] == other.obs["organ"].iloc[0]


def test_organs_differ_in_architecture(views: dict[str, np.ndarray], obs: pd.DataFrame) -> None:
    pale = pd.Series(views["image"][:, 9])
    glands = (obs["domain"] == "epithelium").to_numpy()
    by_patient = pale[glands].groupby(obs["patient"].to_numpy()[glands]).mean()
    # lumina of the colon are empty, follicles of the thyroid are full
    assert min(by_patient["patient_0"], by_patient["patient_2"]) > max(by_patient["patient_1"], by_patient["patient_3"])


def test_patients_differ_in_stain(views: dict[str, np.ndarray], obs: pd.DataFrame) -> None:
    stroma = (obs["domain"] == "stroma").to_numpy()
    colour = pd.DataFrame(views["image"][stroma, :3]).groupby(obs["patient"].to_numpy()[stroma]).mean()
    distance = np.abs(colour.loc["patient_0"] - colour.loc["patient_2"]).max()
    assert 2 < distance < 60


def test_genes_have_batch_effects(cohort: list[SpatialData]) -> None:
    house = (cohort[0]["table"].var["program"] == "housekeeping").to_numpy()
    a, b = (sample["table"].X.toarray()[:, house] for sample in (cohort[0], cohort[2]))
    halves = np.log((a[::2].mean(axis=0) + 0.1) / (a[1::2].mean(axis=0) + 0.1))
    patients = np.log((a.mean(axis=0) + 0.1) / (b.mean(axis=0) + 0.1))
    assert patients.std() > 1.5 * halves.std()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"n_samples": 0}, ValueError, "n_samples=0: expected a whole number of at least 1."),
        ({"n_spots": -3}, ValueError, "n_spots=-3: expected a whole number of at least 1."),
        ({"n_spots": 2.5}, ValueError, "n_spots=2.5: expected a whole number of at least 1."),
        ({"n_domains": 0}, ValueError, "n_domains=0: expected a whole number of at least 1."),
        (
            {"n_genes": 8},
            ValueError,
            "n_genes=8: expected a whole number of at least 9, one for each gene program of n_domains=4.",
        ),
        ({"n_samples": True}, ValueError, "n_samples=True: expected a whole number of at least 1."),
        ({"mpp": 0}, ValueError, "mpp=0: expected a positive number of µm/px."),
        ({"pitch_um": float("nan")}, ValueError, "pitch_um=nan: expected a positive number of µm."),
        ({"mpp": 0.001}, ValueError, "pixels; a side may have 60000. Choose fewer spots or a larger mpp."),
        ({"rng": -1}, TypeError, "rng=-1: expected a non-negative int"),
        ({"rng": None}, TypeError, "rng=None: expected a non-negative int"),
    ],
)
def test_errors_say_what_to_do(arguments: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        sp.datasets.toy(**arguments)


def test_import_is_light() -> None:
    code = (
        "import sys, spade.datasets;"
        "heavy = {'torch', 'timm', 'scanpy', 'squidpy', 'matplotlib', 'numba', 'spatialdata'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
