"""Fixtures: where the real samples lie, and small cohorts that several tests share."""

from __future__ import annotations

import copy
import os
import warnings
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# the suite runs one process per core: threads of several processes would only wait for each other
for variable in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

REPOSITORY = Path(__file__).parents[1]
DATA = Path(os.environ.get("SPADE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that none of them is left alone at the end of a parallel run."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with the real samples; tests that ask for it are skipped where it is absent."""
    if not (DATA / "mob").is_dir():
        pytest.skip(f"real samples are not at {DATA}; set SPADE_TEST_DATA")
    return DATA


@pytest.fixture(scope="session")
def _cohort():
    import spade as sp

    samples = sp.datasets.toy(2, 80, n_genes=200)
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    return samples


@pytest.fixture
def cohort(_cohort):
    """Two encoded toy samples of 80 spots; a copy, free to be changed."""
    return [fresh(sample) for sample in _cohort]


@pytest.fixture
def sample(cohort):
    """One encoded toy sample."""
    return cohort[0]


@pytest.fixture(scope="session")
def model(_cohort):
    """A model trained briefly on the cohort."""
    import spade as sp

    samples = [fresh(sample) for sample in _cohort]
    panel = sp.pp.select_genes(samples, n_top_genes=30)
    return sp.tl.train_spade(
        samples, use_rep="X_texture", genes=panel, n_prototypes=6, n_experts=3, n_epochs=10, lr=1e-3, batch_size=32
    )


def fresh(sample):
    """Copy a sample: tables and shapes are its own, images are shared."""
    from spatialdata import SpatialData

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SpatialData(
            images=dict(sample.images),
            shapes={key: shapes.copy() for key, shapes in sample.shapes.items()},
            tables={key: table.copy() for key, table in sample.tables.items()},
            attrs=copy.deepcopy(dict(sample.attrs)),
        )


@pytest.fixture(scope="session")
def network():
    """A small vision transformer with random weights."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return timm.create_model("test_vit", num_classes=11).eval()


@pytest.fixture(scope="session")
def weights(network, tmp_path_factory):
    """Its weights in a file."""
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(network.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def encoder(weights):
    """The small transformer as a frozen encoder."""
    import spade as sp

    return sp.encoders.get("test_vit", weights=weights)


@pytest.fixture(scope="session")
def tune(weights):
    """Fine-tune the small transformer."""
    from helpers.seal import tuned_by

    return tuned_by(weights)


@pytest.fixture(scope="session")
def tuned(tune):
    """A model that the small transformer was tuned to; not to be changed."""
    from helpers.seal import pictures

    return tune(pictures(), n_epochs=3, lr=1e-2)


@pytest.fixture(scope="session")
def headed():
    """A model on features; not to be changed."""
    from helpers.seal import cohort, seal

    return seal(cohort(), n_epochs=3)
