"""From a few labels to labels for all spots."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from spade import _keys
from spade._said.lines import speaks, wrote
from spade._samples.experts import palette
from spade._samples.features import (
    Representation,
    beside,
    block_widths,
    check_weights,
    named_representations,
    read_blocks,
    support_scale,
)
from spade._samples.listed import Listed
from spade._samples.obs import categorical, check_free, obs_column, value_strings
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade._samples.shown.colours import distinct_colours
from spade.core.arrays import Floats
from spade.core.checks import brief, check_text
from spade.core.rng import as_seed
from spade.tl._few_shot.probes import Probe, check_paper
from spade.tl._few_shot.rows import LabelledRows, read_rows


@speaks
def annotate(
    samples: Samples,
    *,
    label_key: str,
    use_rep: Representation,
    classifier: str = "linear",
    C: float | str = "norm",
    n_neighbors: int = 5,
    scaling: str = "block",
    weights: str | Mapping[str, float] | None = None,
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
) -> None:
    """Predict the label of every spot of all samples from the spots that have one.

    The classifier is that of :func:`few_shot`, which measures how well it does: with ``groupby`` for samples without
    labels, without it for samples that have some.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these. Samples without ``obs[label_key]`` are
        only predicted.
    label_key
        ``obs`` column of the labels; a spot without a value has none.
    use_rep
        ``obsm`` key of a representation, or a tuple of keys whose features are concatenated.
    classifier, C, n_neighbors
        As in :func:`few_shot`.
    scaling, weights
        As in :func:`few_shot`; the support are all labelled spots.
    table_key
        Table; may be left out when there is one.
    rng
        Seed; matters with ``C="cv"`` and ``weights="auto"`` only.
    key_added
        Stem of the keys written; None: ``"<label_key>_predicted"``.

    Returns
    -------
    None
        Writes, with stem ``domain_predicted``: ``obs["domain_predicted"]``, also for spots that have a label;
        ``obsm["domain_predicted_probability"]``, float32 ``(n_obs, n_classes)`` in the order of the categories;
        ``obs["domain_predicted_uncertainty"]``, the entropy of the probabilities divided by its maximum, from 0 to 1.
        Spots without a valid patch have a missing label and NaN. Plot the result with
        ``sp.pl.expert_clusters(samples, color="domain_predicted")``.

    Raises
    ------
    KeyError
        No such column in any sample, or no such representation.
    ValueError
        Fewer than two classes with labels, widths that differ, or a name that is in use. Nothing is written then.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(2, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> obs = samples[0]["table"].obs
    >>> number = obs.groupby("domain", observed=True).cumcount()
    >>> obs["mine"] = obs["domain"].where(number < 3)  # three labels per domain
    >>> sp.tl.annotate(samples, label_key="mine", use_rep="X_texture")
    >>> samples[1]["table"].obs["mine_predicted"].isna().sum()
    np.int64(0)
    """
    if not isinstance(use_rep, (str, tuple)):
        raise TypeError(f"use_rep={brief(use_rep)}: expected one representation, a key or a tuple of keys.")
    named = named_representations(use_rep)
    keys = _WrittenKeys.of(label_key, key_added, *named.values())
    block_weights = check_weights(weights, named)
    probe = Probe(classifier, C, n_neighbors, choose_weights=weights == "auto")
    check_paper(C, scaling)
    seed = as_seed(rng)
    listed = as_list(samples, writes=True)
    labelled = _labelled_samples(listed, label_key, table_key)
    colours = _colours(labelled, label_key, table_key)
    rows = read_rows(
        labelled,
        label_key,
        named,
        scaling=scaling,
        weights=block_weights,
        purpose="the support",
        table_key=table_key,
    )
    predict = _fit(probe, rows, scaling, seed)
    probabilities = []  # of every sample before any is written
    for sample in iter_samples(listed, table_key=table_key):
        check_free(sample, keys.label)
        check_free(sample, keys.uncertainty)
        written = keys.label, keys.uncertainty, keys.probability
        _keys.check_parts(sample.table.uns, sample.name, keys.label, "tl.annotate", *written)
        blocks, with_features = read_blocks(sample, named, scaling, block_weights)
        if (own := block_widths(named, blocks)) != rows.widths:
            raise ValueError(
                f"{sample.name}: use_rep={use_rep!r} has {_numbers(own)} features, but {_numbers(rows.widths)} in the "
                "samples with labels. Encode all of them alike."
            )
        for key in blocks:
            rows.origins.check(sample, key)
        (x,) = beside(named, blocks).values()
        probability = np.full((sample.table.n_obs, len(rows.classes)), np.nan, dtype=np.float32)
        if len(with_features):
            probability[with_features] = predict(x)
        probabilities.append(probability)
    record = {
        "function": "tl.annotate",
        "label_key": label_key,
        "use_rep": " + ".join(*named.values()),
        "classifier": classifier,
        "n_labels": len(rows.labelled),
        "scaling": scaling,
        "seed": seed,
    }
    for sample, probability in zip(iter_samples(listed, table_key=table_key, writes=True), probabilities, strict=True):
        _write(sample, probability, rows.classes, colours, keys, record)


@dataclass(frozen=True)
class _WrittenKeys:
    """Names of what is written: labels and uncertainty in ``obs``, probabilities in ``obsm``."""

    label: str
    probability: str
    uncertainty: str

    @classmethod
    def of(cls, label_key: str, key_added: str | None, read: Container[str]) -> _WrittenKeys:
        """Check the stem: neither the labels themselves nor the features that are read may be replaced."""
        check_text("label_key", label_key)
        stem = f"{label_key}_predicted" if key_added is None else check_text("key_added", key_added)
        keys = cls(stem, *(_keys.check_key(f"{stem}_{name}") for name in ("probability", "uncertainty")))
        if label_key in (keys.label, keys.uncertainty):
            raise ValueError(
                f"key_added={stem!r} would replace the labels obs[{label_key!r}] by predictions; choose another name."
            )
        if keys.probability in read:
            raise ValueError(
                f"key_added={stem!r} would replace obsm[{keys.probability!r}], which use_rep= reads; choose another "
                "name."
            )
        return keys


def _numbers(widths: Mapping[str, list[int]]) -> str:
    return " + ".join(map(str, *widths.values()))


def _labelled_samples(listed: Listed[Item], label_key: str, table_key: str | None) -> list[Item]:
    """Return the samples that have the column, or raise with the columns there are."""
    has_labels = [label_key in sample.table.obs for sample in iter_samples(listed, table_key=table_key)]
    labelled = [item for item, has in zip(listed.readable, has_labels, strict=True) if has]
    if not labelled:
        for sample in iter_samples(listed, table_key=table_key):
            obs_column(sample, label_key, "label_key")
    return labelled


def _fit(probe: Probe, rows: LabelledRows, scaling: str, seed: int) -> Callable[[Floats], Floats]:
    """Learn from all labelled rows; return the function from features ``(n, d)`` to probabilities."""
    (x,) = rows.x.values()
    support = x[rows.labelled].astype(np.float64)
    mean, deviation = support_scale(support, scaling)
    (widths,) = rows.widths.values()
    predict = probe.fit((support - mean) / deviation, rows.y[rows.labelled], seed, widths)
    return lambda features: predict((features - mean) / deviation)


def _write(
    sample: Sample,
    probability: Floats,
    classes: list[str],
    colours: dict[str, str],
    keys: _WrittenKeys,
    record: dict[str, object],
) -> None:
    """Write labels, uncertainties, probabilities, colours and the record of one sample."""
    predicted = ~np.isnan(probability).any(1)
    labels = np.full(len(probability), "", dtype=object)
    labels[predicted] = np.array(classes, dtype=object)[probability[predicted].argmax(1)]
    clipped, table = np.clip(probability, 1e-12, 1), sample.table
    table.obs[keys.label] = categorical(labels, classes)
    table.obs[keys.uncertainty] = (-(clipped * np.log(clipped)).sum(1) / np.log(len(classes))).astype(np.float32)
    table.obsm[keys.probability] = probability
    table.uns.pop(f"{keys.label}_colors", None)
    if colours:
        table.uns[f"{keys.label}_colors"] = np.array([colours[name] for name in classes])
    _keys.write_provenance(table.uns, keys.label, **record)
    _keys.write_parts(table.uns, keys.label, keys.uncertainty, keys.probability)
    sample.save()
    wrote(sample.name, f"obs[{keys.label!r}]", f"obs[{keys.uncertainty!r}]", f"obsm[{keys.probability!r}]")


def _colours(labelled: Sequence[Item], label_key: str, table_key: str | None) -> dict[str, str]:
    """Return the colours of the labels in ``uns``; empty unless every category has one."""
    every: list[dict[str, str]] = []
    for sample in iter_samples(labelled, table_key=table_key):
        column, stored = sample.table.obs[label_key], sample.table.uns.get(f"{label_key}_colors")
        if (
            stored is None
            or not isinstance(column.dtype, pd.CategoricalDtype)
            or len(stored) != len(column.cat.categories)
        ):
            return {}
        every.append(dict(zip(value_strings(column.cat.categories.to_series()), map(str, stored), strict=True)))
    names = dict.fromkeys(name for known in every for name in known if name)
    return distinct_colours(dict(zip(names, palette(len(names)).tolist(), strict=True)), every)
