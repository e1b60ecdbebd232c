"""How well experts agree with labels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import log_left_out, plural
from spade._said.lines import speaks
from spade._samples.experts import iter_experts, need_experts
from spade._samples.obs import read_labels
from spade._samples.open import Samples
from spade.core.checks import check_text

#: Value of ``section`` for all sections together.
OVERALL = "all_sections"


@speaks
def expert_agreement(
    samples: Samples, *, label_key: str, key: str = _keys.STEM, table_key: str | None = None
) -> pd.DataFrame:
    """Measure how well experts agree with labels, such as a pathologist's regions.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    label_key
        ``obs`` column of categories; spots without one are left out.
    key
        Stem of the keys that :func:`embed` or :func:`cluster_experts` wrote.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``section``, and one for all spots together, ``"all_sections"``. Columns: ``n`` spots with label and
        expert; ``n_without_label``; ``n_without_expert`` (of those with a label); the number of different labels
        ``n_labels`` and experts ``n_experts``; ``adjusted_rand`` and ``adjusted_mutual_info`` (0: as by chance, 1: the
        same partition); ``normalized_mutual_info`` (arithmetic mean); ``homogeneity`` (1: no expert has spots of two
        labels); ``completeness`` (1: no label is spread over two experts). NaN where there are fewer than two labels.

    Raises
    ------
    KeyError
        No experts or clusters with this ``key``, or no such column.
    TypeError
        ``label_key`` is a column of continuous numbers.
    ValueError
        Fewer than two labels among all spots with an expert.

    Notes
    -----
    More experts than labels lower completeness, and with it the adjusted Rand index, even if every expert is pure: see
    homogeneity. Unlike the adjusted measures, homogeneity, completeness and normalised mutual information grow with the
    number of experts by chance alone.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=4, n_experts=4)
    >>> sp.tl.expert_agreement(samples, label_key="domain")["section"].tolist()
    ['toy_0', 'toy_1', 'all_sections']
    """
    experts, labels, sections = [], [], []
    for sample, of_sample in iter_experts(samples, check_text("key", key), table_key):
        experts.append(of_sample)
        labels.append(read_labels(sample, label_key, "label_key")[0])
        sections.append(sample.section_of_row().astype(object))
    expert, label, section = map(np.concatenate, (experts, labels, sections))
    need_experts(expert, key)
    overall = _compare(OVERALL, expert, label)
    if overall["n_labels"] < 2:
        names = sorted(set(label[(expert != "") & (label != "")]))
        raise ValueError(
            f"label_key={label_key!r}: the {overall['n']} spots with label and expert have "
            f"{plural(len(names), 'different label')} ({', '.join(names) or 'none'}); agreement needs two."
        )
    without = {"without label": overall["n_without_label"], "without expert": overall["n_without_expert"]}
    log_left_out("expert_agreement", len(label), without)
    rows = [_compare(name, expert[section == name], label[section == name]) for name in dict.fromkeys(section)]
    return pd.DataFrame([*rows, overall])


class Agreement(TypedDict):
    """Agreement of experts and labels in one section, or in all."""

    section: str
    n: int
    n_without_label: int
    n_without_expert: int
    n_labels: int
    n_experts: int
    adjusted_rand: float
    adjusted_mutual_info: float
    normalized_mutual_info: float
    homogeneity: float
    completeness: float


def _compare(section: str, expert: NDArray[np.object_], label: NDArray[np.object_]) -> Agreement:
    """Compare the partitions of the spots that have both an expert and a label."""
    from sklearn import metrics

    used = (expert != "") & (label != "")
    label_used, expert_used = label[used].astype(str), expert[used].astype(str)
    n_labels = len(set(label_used))

    def measure(score: Callable[[NDArray[np.str_], NDArray[np.str_]], float]) -> float:
        return float(score(label_used, expert_used)) if n_labels > 1 else np.nan

    return {
        "section": section,
        "n": int(used.sum()),
        "n_without_label": int((label == "").sum()),
        "n_without_expert": int(((label != "") & (expert == "")).sum()),
        "n_labels": n_labels,
        "n_experts": len(set(expert_used)),
        "adjusted_rand": measure(metrics.adjusted_rand_score),
        "adjusted_mutual_info": measure(metrics.adjusted_mutual_info_score),
        "normalized_mutual_info": measure(metrics.normalized_mutual_info_score),
        "homogeneity": measure(metrics.homogeneity_score),
        "completeness": measure(metrics.completeness_score),
    }
