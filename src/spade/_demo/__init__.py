"""The whole analysis, on the synthetic cohort or on a folder of real samples."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import pandas as pd
from spatialdata import SpatialData

import spade as sp
from spade import _keys
from spade._checks import plural
from spade._demo._find import find_samples
from spade._demo._report import Report
from spade._samples.open import iter_samples
from spade._samples.patches import row_centres
from spade._samples.sample import Sample
from spade.core.checks import check_path
from spade.core.files import write_atomically

USE_REP = "X_texture"
SPOTS_PER_EXPERT = 200
#: ``obs`` keys of region labels, the first that a sample has is compared with the experts.
LABELS = ("domain", "label")
#: Characters of the longest name of a store.
MAX_NAME = 60
SPLIT = _keys.split(_keys.STEM)
#: Heading, sentence, and what draws a figure.
Figure: TypeAlias = tuple[str, str, Callable[[], object]]


def run(out: str | PathLike[str], data: str | PathLike[str] | None = None, seed: int = 0) -> Path:
    """Train, embed and draw a cohort.

    Parameters
    ----------
    out
        Folder for ``report.html``, ``figures/``, ``model/`` and one embedded ``.zarr`` per sample.
    data
        Folder with real samples; None: the synthetic cohort.
    seed
        Seed of all random draws.

    Returns
    -------
    Path
        The report.
    """
    out = check_path("out", out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    clock = Clock()
    with clock("samples"):
        samples = sp.datasets.toy(rng=seed) if data is None else find_samples(check_path("data", data), leave_out=out)
    names = [sample.name for sample in iter_samples(samples)]
    expressed = [sample.sdata for sample in iter_samples(samples) if sample.has_expression]
    if not expressed:
        raise ValueError(f"none of {', '.join(names)} has expression, which training needs.")
    with clock("patches and image features"):
        sp.pp.patches(samples)
        sp.pp.encode_patches(samples)
    with clock("split and gene panel"):
        sp.pp.split(expressed, block_um=_block_side(expressed), fractions=(0.75, 0.0, 0.25), rng=seed)
        # with few sections, more genes of each make up for the few spots
        panel = sp.pp.select_genes(expressed, n_top_genes=500 if len(expressed) < 4 else 50, split_key=SPLIT)
    with clock("experts and training"):
        model = _train(expressed, panel, seed)
    with clock("embedding and retrieval"):
        sp.tl.embed(samples, model)
        retrieval = sp.tl.retrieval_metrics(expressed, model, split_key=SPLIT)

    report = Report(
        "spade: image and expression of one tissue in one space",
        f"{'Synthetic cohort' if data is None else f'Samples of {data}'}: {', '.join(names)}. Made by python -m spade "
        f"demo, spade {sp.__version__}, seed {seed}.",
    )
    with clock("figures and files"):
        drawn = _figures(samples, model)
        _numbers(report, samples, model, retrieval)
        _draw(report, drawn, out / "figures")
        stores = _save(samples, names, model, out)
    report.text("Files", f"model/ holds the weights and their card; {', '.join(stores)} the embedded samples.")
    report.table(pd.DataFrame({"step": list(clock.seconds), "seconds": list(clock.seconds.values())}))
    report.write(out / "report.html")
    return out / "report.html"


def _train(samples: list[SpatialData], panel: sp.models.GenePanel, seed: int) -> sp.models.SpadeModel:
    """Train on the spots that are not held out, with more experts for more spots."""
    n_experts = int(np.clip(_n_spots(samples) // SPOTS_PER_EXPERT, 2, 16))
    return sp.tl.train_spade(
        samples,
        use_rep=USE_REP,
        genes=panel,
        n_prototypes=min(16, 4 * n_experts),
        n_experts=n_experts,
        lr=1e-3,
        n_epochs=60,
        batch_size=64,
        split_key=SPLIT,
        rng=seed,
    )


def _save_figure(path: Path) -> None:
    """Save the figure that was drawn last."""
    import matplotlib.pyplot as plt

    plt.gcf().savefig(path, format="png", dpi=120, bbox_inches="tight")


def _draw(report: Report, figures: dict[str, Figure], folder: Path) -> None:
    """Draw, save and report every figure."""
    import matplotlib.pyplot as plt

    for name, (heading, sentence, draw) in figures.items():
        draw()
        path = folder / f"{name}.png"
        write_atomically(path, _save_figure)
        plt.close("all")
        report.figure(heading, sentence, path)


def _save(samples: list[SpatialData], names: list[str], model: sp.models.SpadeModel, out: Path) -> list[str]:
    """Save the model and all samples; return the names of the stores."""
    model.save(out / "model")
    stores = [f"{name}.zarr" for name in _file_names(names)]
    for sample, store in zip(samples, stores, strict=True):
        sp.io.write(sample, out / store)
    return stores


def _n_spots(samples: list[SpatialData]) -> int:
    """Return the number of spots with expression."""
    return sum(sample.table.n_obs for sample in iter_samples(samples) if sample.has_expression)


class Clock:
    """Prints the name of each step and records its time."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        """Time one step."""
        print(f"[{len(self.seconds) + 1}/6] {step}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[step] = time.perf_counter() - start


def _file_names(names: list[str]) -> list[str]:
    """Return a file name without path separators for every sample, no two alike, even where case does not count."""
    files: list[str] = []
    used: set[str] = set()
    for name in names:
        safe = re.sub(r"[^\w.-]+", "_", name)[:MAX_NAME].strip("._") or "sample"
        free = next(file for n in count(1) if (file := safe if n == 1 else f"{safe}_{n}").casefold() not in used)
        used.add(free.casefold())
        files.append(free)
    return files


def _block_side(samples: list[SpatialData]) -> float:
    """Return the side of the spatial blocks in µm: a fifth of the side of the median section."""
    sides = []
    for sample in iter_samples(samples):
        centres, side_um = row_centres(sample, _keys.PATCHES, required=True)
        sides += [np.sqrt(np.prod(np.ptp(centres[section.rows], axis=0) + side_um)) for section in sample.sections]
    return float(np.median(sides)) / 5


def _label_key(sample: Sample) -> str | None:
    """Return the key of the region labels of a sample, None if it has none."""
    return next((key for key in LABELS if key in sample.table.obs), None)


def _numbers(report: Report, samples: list[SpatialData], model: sp.models.SpadeModel, retrieval: pd.DataFrame) -> None:
    """Report what was trained, how well it retrieves, and how experts agree with labels."""
    from sklearn.metrics import adjusted_rand_score

    report.text(
        "What was trained",
        f"{plural(model.n_experts, 'expert')} on {model.facts['training_spots']} of "
        f"{plural(_n_spots(samples), 'spot')} with expression: {model.n_features} image features and {model.n_genes} "
        f"genes per spot, joined in one space of {model.dim} dimensions.",
    )
    everywhere = retrieval[retrieval.gallery == "all_spots"]
    report.text(
        "Do image and expression find each other?",
        f"On {int(everywhere.n.iloc[0])} spots of spatial blocks that training never saw, the true partner is among "
        f"the first {int(everywhere.k.iloc[0])} for {everywhere.recall.mean():.0%} of queries; chance gives "
        f"{everywhere.chance_recall.mean():.0%}. Rows 'same_section' and 'same_expert' search only spots of the same "
        "section, or of the same expert: they show what is gained beyond recognising the section, or beyond the choice "
        "of the expert.",
    )
    report.table(retrieval)
    experts, truth = [], []
    for sample in iter_samples(samples):
        key = _label_key(sample)
        if key is not None:
            known = (sample.table.obs[key].notna() & sample.table.obs["spade_expert"].notna()).to_numpy()
            experts.append(sample.table.obs["spade_expert"][known].astype(str))
            truth.append(sample.table.obs[key][known].astype(str))
    if truth:
        score = adjusted_rand_score(np.concatenate(truth), np.concatenate(experts))
        report.text(
            "Do experts follow the labels?",
            f"The adjusted Rand index between experts and the region labels is {score:.2f} (0 is chance, 1 is the same "
            "partition); experts are made without labels and need not follow them.",
        )


def _figures(samples: list[SpatialData], model: sp.models.SpadeModel) -> dict[str, Figure]:
    """Return the figures by name."""
    return {
        "patches": (
            "Patches",
            "Each square is the tissue that is read around one spot (circle). Check that size and place are right.",
            lambda: sp.pl.patches(samples[0]),
        ),
        "expert_clusters": (
            "Experts in tissue",
            "Left: every spot in the colour of the expert with the largest weight. Right: the entropy of the routing.",
            lambda: sp.pl.expert_clusters(samples),
        ),
        "expert_gallery": (
            "What the experts look at",
            "The most typical patches of each expert, and the marker genes of its spots.",
            lambda: sp.pl.expert_gallery(samples),
        ),
        "training": (
            "Training",
            "The loss of each expert on its own spots falls and levels off.",
            lambda: sp.pl.training(model),
        ),
        "embedding": (
            "The joint space",
            "UMAP of the joint embedding: spots of similar morphology and expression lie together.",
            lambda: sp.pl.embedding(samples),
        ),
    }
