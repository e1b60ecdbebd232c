"""A picture of every plot, for its page of the API.

To add a plot, write an ``@example`` of its name. Its docstring says what the picture shows, for those who cannot see
it; its parameters name what it draws, each made once by the ``@shared`` function of that name; its body is shown.
Sections and slides are real where ``SPADE_DATA_DIR`` has them, else synthetic.
"""

from __future__ import annotations

import inspect
import io
import os
import textwrap
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import spade as sp

DATA = Path(os.environ.get("SPADE_DATA_DIR", "nowhere"))
SHARED: dict[str, Callable[[], Any]] = {}
EXAMPLES: dict[str, Callable[..., Any]] = {}


def shared(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register what examples draw; it is made once."""
    SHARED[function.__name__] = cache(function)
    return SHARED[function.__name__]


def example(function: Callable[..., Any]) -> Callable[..., Any]:
    """Register the example of a plot."""
    EXAMPLES[function.__name__] = function
    return function


def code_of(name: str) -> str:
    """Body of an example."""
    lines, _ = inspect.getsourcelines(EXAMPLES[name])
    body = textwrap.dedent("".join(lines)).partition('"""\n')[2]
    return textwrap.dedent(body)


def text_of(name: str) -> str:
    """What the picture of a plot shows, in words."""
    return inspect.getdoc(EXAMPLES[name]) or ""


def draw(name: str, path: Path) -> None:
    """Draw an example into a file."""
    before, sp.settings.verbosity = sp.settings.verbosity, "error"
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # progress bars
            warnings.simplefilter("ignore")
            EXAMPLES[name](**{given: SHARED[given]() for given in inspect.signature(EXAMPLES[name]).parameters})
    finally:
        sp.settings.verbosity = before
    plt.gcf().savefig(path, dpi=110, bbox_inches="tight", facecolor="white")
    plt.close("all")


# --- what is drawn


@shared
def samples() -> list[Any]:
    """Two sections of two patients; all labels in ``obs["label"]``, those that both have in ``obs["kind"]``."""
    if (DATA / "her2st" / "derived_labels").is_dir():
        sections = sp.datasets.her2st(["B4", "C2"], labels=True)
    else:
        sections = sp.datasets.toy(2, 250)
    for section, patient in zip(sections, ("B", "C"), strict=True):
        obs = section["table"].obs
        obs["patient"] = patient
        obs["label"] = obs["label"] if "label" in obs else obs["domain"]
        cancer = obs["label"] == "invasive cancer"
        obs["kind"] = np.where(cancer, "cancer", "other") if cancer.any() else obs["label"].astype(str)
    sp.pp.patches(sections)
    sp.pp.encode_patches(sections)
    sp.pp.select_genes(sections, n_top_genes=300)
    return sections


@shared
def model() -> Any:
    trained = sp.tl.train_spade(samples(), use_rep="X_texture", n_experts=4, n_epochs=30, batch_size=32)
    sp.tl.embed(samples(), trained)
    return trained


@shared
def embedded() -> list[Any]:
    model()
    return samples()


@shared
def genes() -> list[str]:
    """Genes that vary, of which the first are drawn."""
    wanted = [gene for gene in ("ERBB2", "CD74", "COL1A1", "KRT8") if gene in samples()[0]["table"].var_names]
    panel = samples()[0]["table"].var
    return [*wanted, *panel.index[panel["spade_gene"]]][:30]


@shared
def slides() -> list[Any]:
    """A slide with tissue and tiles."""
    path = DATA / "slides" / "CMU-1-Small-Region.svs"
    found = [sp.io.read_wsi(path)] if path.is_file() else sp.datasets.toy(1, 250)
    sp.pp.tissue(found)
    sp.pp.tiles(found)
    return found


@shared
def patients() -> pd.DataFrame:
    """Made-up times of 120 patients: those of group B live shorter."""
    rng = np.random.default_rng(0)
    group = np.repeat(["A", "B"], 60)
    time = rng.exponential(np.where(group == "A", 60, 25))
    return pd.DataFrame({"time": np.minimum(time, 72), "event": time < 72, "group": group})


@shared
def predictions() -> pd.DataFrame:
    """Predictions of every draw of a few-shot task on the sections."""
    _, table = sp.tl.few_shot(
        samples(), label_key="kind", use_rep="X_texture", shots=(1, 8), n_repeats=10, return_predictions=True
    )
    return table


# --- plots


@example
def spatial(samples, genes):
    """Sections with their spots in true size, coloured by label and by the expression of a gene."""
    sp.pl.spatial(samples, ["label", genes[0]])


@example
def split(samples):
    """Sections with spots for training and for test, the guard band between them, and the lines of the blocks."""
    sp.pp.split(samples, block_um=1500, guard_um=200, fractions=(0.6, 0, 0.4))
    sp.pl.split(samples)


@example
def routing(model):
    """A dendrogram of the prototypes, and beside it the weight that each gives to every expert."""
    sp.pl.routing(model)


@example
def retrieval_curve(embedded, model):
    """Rising curves: how often the true partner is among the first k, beside chance, one panel per gallery."""
    table = sp.tl.retrieval_metrics(embedded, model, k=(1, 2, 5, 10, 20, 50))
    sp.pl.retrieval_curve(table)


@example
def confusion(predictions):
    """A matrix with the share of the spots of every true class that is told to be of each class, from 8 labels each."""
    sp.pl.confusion(predictions)


@example
def roc(predictions):
    """A curve of true against false positives of one class against the other, from 8 labels each."""
    sp.pl.roc(predictions)


@example
def patches(samples):
    """Two sections with the squares around their spots, and beside them some of the patches."""
    sp.pl.patches(samples, n=4)


@example
def tiles(slides):
    """A slide with the outline of its tissue and the grid of tiles on it."""
    sp.pl.tiles(slides)


@example
def slide(slides):
    """A slide with its tiles coloured by the share of tissue in them."""
    sp.pl.slide(slides, "tissue_share", table_key="tiles")


@example
def expert_clusters(embedded):
    """Sections with every spot in the colour of its expert, and beside them the entropy of the routing."""
    sp.pl.expert_clusters(embedded)


@example
def expert_gallery(embedded):
    """One row per expert: its most typical patches, and the genes that stand out in its spots."""
    sp.pl.expert_gallery(embedded, n_patches=5, n_genes=6)


@example
def expert_genes(embedded):
    """Dots for the best genes of every expert: size and colour say how many spots have the gene, and how much of it."""
    table = sp.tl.rank_expert_genes(embedded, min_spots=5)
    sp.pl.expert_genes(table, n_genes=4)


@example
def expert_composition(embedded):
    """Bars with the share of every expert in each region, and which experts are more frequent there than overall."""
    table = sp.tl.expert_composition(embedded, by="label", n_boot=200)
    sp.pl.expert_composition(table)


@example
def embedding(embedded):
    """Spots in two dimensions, coloured by label and by patient."""
    sp.pl.embedding(embedded, color=["label", "patient"])


@example
def training(model):
    """Falling curves: the loss of every expert over the epochs."""
    sp.pl.training(model)


@example
def choose_n_experts(samples):
    """Falling curves of the variance within clusters, against the number of prototypes and of experts."""
    sp.pl.choose_n_experts(samples, use_rep="X_texture", counts=(1, 2, 4, 8, 16))


@example
def few_shot(samples):
    """Balanced accuracy of two representations against the number of labels per class, with intervals."""
    sp.pp.spatial_context(samples, use_rep="X_texture")
    table = sp.tl.few_shot(
        samples, label_key="kind", use_rep=["X_texture", "X_texture_context"], shots=(1, 2, 4), n_repeats=10
    )
    sp.pl.few_shot(table)


@example
def retrieval(embedded, model):
    """One row per query: a patch, and beside it the patches whose expression fits it best."""
    table = sp.tl.retrieve(embedded[0], embedded, model, spots=list(embedded[0]["table"].obs_names[:3]))
    sp.pl.retrieval(table, embedded, n_queries=3, n_patches=5)


@example
def expression(samples, genes):
    """Measured and predicted expression of two genes, side by side on the tissue."""
    sp.tl.predict_expression(samples, method="ridge", use_rep="X_texture", genes=genes, reference=samples)
    sp.pl.expression(samples[0], genes[:2])


@example
def expression_ranking(samples):
    """Genes by the correlation of their predicted with their measured expression, the best first."""
    table = sp.tl.expression_benchmark(samples, use_rep="X_texture", protocol="sound", n_genes=30)
    sp.pl.expression_ranking(table)


@example
def programs(samples):
    """Measured and predicted programs of expression, side by side on the tissue."""
    model = sp.tl.train_programs(samples, use_rep="X_texture", n_clusters=(4, 6), n_programs=3)
    sp.pl.programs(samples[0], model, n_programs=2)


@example
def attention(samples):
    """Halves of sections, taken as slides: the tissue, and beside it its patches coloured by their attention."""
    for sample in samples:
        table = sample["table"]
        table.obs["half"] = np.where(np.arange(table.n_obs) < table.n_obs / 2, "a", "b") + table.obs["patient"].astype(
            str
        )
    sp.tl.attention(samples, label_key="patient", use_rep="X_texture", slide_key="half", groupby=None, n_epochs=5)
    sp.pl.attention(samples, key="patient_attention")


@example
def survival(patients):
    """Two falling curves of survival, one per group of made-up patients, and the numbers at risk below."""
    sp.pl.survival(patients, groups="group", time_label="months")


@example
def switchboard(samples, genes):
    """One panel per figure: a dot with its interval for frozen features, and for heads with each loss on and off."""
    table = sp.tl.switchboard(
        samples, use_rep="X_texture", genes=genes, variants=["seal", "seal_no_contrastive"],
        seal_settings={"n_epochs": 3, "dim": 32, "batch_size": 64},
    )  # fmt: skip
    sp.pl.switchboard(table)
