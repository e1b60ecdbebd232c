"""How far experts and labels divide the spots alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import log_left_out
from spade._samples.experts import iter_experts, need_experts
from spade._samples.obs import read_labels
from spade._samples.open import Samples

OVERALL = "all sections"


def expert_agreement(
    samples: Samples, *, label_key: str, key: str = _keys.STEM, table_key: str | None = None
) -> pd.DataFrame:
    """Measure how well experts agree with labels, such as a pathologist's regions.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    label_key
        ``obs`` column of categories; spots without one are left out.
    key
        Stem of the keys that :func:`embed` or :func:`cluster_experts` wrote.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per ``section``, and ``"all sections"`` for their spots together. Columns: ``n`` spots with label and expert;
        ``n_without_label``; ``n_without_expert`` (of those with a label); ``n_labels`` and ``n_experts`` that occur; ``adjusted_rand``,
        ``adjusted_mutual_info`` (0: as by chance, 1: the same division); ``normalized_mutual_info`` (arithmetic mean);
        ``homogeneity`` (1: no expert has spots of two labels); ``completeness`` (1: no label is spread over two experts). NaN
        where there are fewer than two labels.

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
    More experts than labels lower completeness and with it the adjusted Rand index, though every expert may be pure: see
    homogeneity. Unlike the adjusted measures, homogeneity, completeness and normalised mutual information grow with the number of
    experts by chance alone.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> routing = sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=4, n_experts=4)
    >>> sp.tl.expert_agreement(samples, label_key="domain")["section"].tolist()
    ['toy_0', 'toy_1', 'all sections']
    """
    experts, labels, sections = [], [], []
    for sample, of_sample in iter_experts(samples, key, table_key):
        experts.append(of_sample)
        labels.append(read_labels(sample, label_key, "label_key")[0])
        sections.append(sample.section_of_row().astype(object))
    expert, label, section = map(np.concatenate, (experts, labels, sections))
    need_experts(expert, key)
    both = (expert != "") & (label != "")
    there = sorted(set(label[both]))
    if len(there) < 2:
        raise ValueError(
            f"label_key={label_key!r}: the {int(both.sum())} spots with label and expert have {len(there)} different labels "
            f"({', '.join(there) or 'none'}); agreement needs two."
        )
    log_left_out(
        "expert_agreement",
        len(label),
        {"without label": int((label == "").sum()), "without expert": int(((label != "") & (expert == "")).sum())},
    )
    rows = [_compare(name, expert[section == name], label[section == name]) for name in dict.fromkeys(section)]
    return pd.DataFrame([*rows, _compare(OVERALL, expert, label)])


def _compare(section: str, expert: NDArray[np.object_], label: NDArray[np.object_]) -> dict[str, Any]:
    from sklearn import metrics

    both = (expert != "") & (label != "")
    truth, found = label[both].astype(str), expert[both].astype(str)
    facts: dict[str, Any] = {
        "section": section,
        "n": int(both.sum()),
        "n_without_label": int((label == "").sum()),
        "n_without_expert": int(((label != "") & (expert == "")).sum()),
        "n_labels": len(set(truth)),
        "n_experts": len(set(found)),
    }
    measures = {
        "adjusted_rand": metrics.adjusted_rand_score,
        "adjusted_mutual_info": metrics.adjusted_mutual_info_score,
        "normalized_mutual_info": metrics.normalized_mutual_info_score,
        "homogeneity": metrics.homogeneity_score,
        "completeness": metrics.completeness_score,
    }
    comparable = facts["n_labels"] > 1
    return facts | {name: float(score(truth, found)) if comparable else np.nan for name, score in measures.items()}
