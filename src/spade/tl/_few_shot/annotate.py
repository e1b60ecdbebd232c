"""From a few labels to labels for all spots."""

from __future__ import annotations

import logging

import numpy as np

from spade import _keys
from spade._samples.features import Representation, named_representations, read_representations, support_scale
from spade._samples.obs import categorical, check_free, obs_column
from spade._samples.open import Samples, as_list, iter_samples
from spade.core.rng import as_seed
from spade.tl._few_shot.probes import Probe
from spade.tl._few_shot.rows import read_rows

logger = logging.getLogger("spade")


def annotate(
    samples: Samples,
    *,
    label_key: str,
    use_rep: Representation,
    classifier: str = "linear",
    C: float | str = "paper",
    n_neighbors: int = 5,
    scaling: str = "section",
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
) -> None:
    """Predict the label of every spot of all samples from the spots that have one.

    The classifier is that of :func:`few_shot`, so that its figures say what to expect: with ``groupby`` for samples without labels,
    without it for samples with some.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these. Samples without ``obs[label_key]`` are only predicted.
    label_key
        ``obs`` column of the labels; a spot without a value has none.
    use_rep
        ``obsm`` key of a representation; a tuple of keys is put side by side.
    classifier, C, n_neighbors
        As in :func:`few_shot`.
    scaling
        ``"section"``, ``"support"`` (all labelled spots) or ``"none"``, as in :func:`few_shot`.
    table_key
        Table; may be left out when there is one.
    rng
        Seed; matters with ``C="cv"`` only.
    key_added
        Stem of the keys written; None: ``"<label_key>_predicted"``.

    Returns
    -------
    None
        Writes, with stem ``domain_predicted``: ``obs["domain_predicted"]``, also for spots that have a label;
        ``obsm["domain_predicted_probability"]``, float32 ``(n_obs, n_classes)`` in the order of the categories;
        ``obs["domain_predicted_uncertainty"]``, the entropy of the probabilities divided by its largest value, from 0 to 1.
        Spots without a valid patch are missing and NaN. Draw them with ``sp.pl.expert_clusters(samples, color="domain_predicted")``.

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
    >>> obs["mine"] = obs["domain"].where(obs.groupby("domain", observed=True).cumcount() < 3)  # three labels per domain
    >>> sp.tl.annotate(samples, label_key="mine", use_rep="X_texture")
    >>> samples[1]["table"].obs["mine_predicted"].isna().sum()
    np.int64(0)
    """
    if not isinstance(use_rep, (str, tuple)):
        raise TypeError(f"use_rep={use_rep!r}: expected one representation, a key or a tuple of keys put side by side.")
    named = named_representations(use_rep)
    stem = f"{label_key}_predicted" if key_added is None else key_added
    probability, uncertainty = (_keys.check_key(f"{stem}_{name}") for name in ("probability", "uncertainty"))
    if stem == label_key:
        raise ValueError(
            f"key_added={stem!r} would replace the labels obs[{label_key!r}] by predictions; choose another name."
        )
    probe = Probe(classifier, C, n_neighbors)
    listed = as_list(samples)
    labelled = [
        item
        for item, sample in zip(listed, iter_samples(listed, table_key=table_key), strict=True)
        if label_key in sample.table.obs
    ]
    if not labelled:  # raises, with the columns there are
        for sample in iter_samples(listed, table_key=table_key):
            obs_column(sample, label_key, "label_key")
    colours = _colours(labelled, label_key, table_key)
    seed = as_seed(rng)
    rows = read_rows(labelled, label_key, named, scaling, None, None, table_key)
    (support,) = (x[rows.y >= 0].astype(np.float64) for x in rows.x.values())
    y = rows.y[rows.y >= 0]
    mean, deviation = support_scale(support, scaling)
    predict = probe.fit((support - mean) / deviation, y, seed)
    predicted = []
    for sample in iter_samples(listed, table_key=table_key):
        for key in (stem, uncertainty):
            check_free(sample, key)
        found_x, own = read_representations(sample, named, scaling)
        (x,) = found_x.values()
        if x.shape[1] != support.shape[1]:
            raise ValueError(
                f"{sample.name}: {use_rep!r} has {x.shape[1]} features, but {support.shape[1]} in the samples with labels. Make it alike."
            )
        found = np.full((sample.table.n_obs, len(rows.classes)), np.nan, dtype=np.float32)
        if len(own):
            found[own] = predict((x - mean) / deviation)
        predicted.append(found)
    record = {
        "function": "tl.annotate", "label_key": label_key, "use_rep": " + ".join(*named.values()), "classifier": classifier,
        "n_labels": len(y), "scaling": scaling, "seed": seed,
    }  # fmt: skip
    for sample, found in zip(iter_samples(listed, table_key=table_key), predicted, strict=True):
        there = ~np.isnan(found).any(1)
        names = np.full(len(found), "", dtype=object)
        names[there] = np.array(rows.classes, dtype=object)[found[there].argmax(1)]
        known, table = np.clip(found, 1e-12, 1), sample.table
        table.obs[stem] = categorical(names, rows.classes)
        table.obs[uncertainty] = (-(known * np.log(known)).sum(1) / np.log(len(rows.classes))).astype(np.float32)
        table.obsm[probability] = found
        table.uns.pop(f"{stem}_colors", None)
        if colours:
            table.uns[f"{stem}_colors"] = np.array([colours[name] for name in rows.classes])
        _keys.write_provenance(table.uns, stem, **record)
        sample.save()
        logger.info("%s: wrote obs[%r], obs[%r] and obsm[%r]", sample.name, stem, uncertainty, probability)


def _colours(labelled: Samples, label_key: str, table_key: str | None) -> dict[str, str]:
    """Colours that the labels have in ``uns``; none unless all categories have one."""
    colours: dict[str, str] = {}
    for sample in iter_samples(labelled, table_key=table_key):
        column, stored = sample.table.obs[label_key], sample.table.uns.get(f"{label_key}_colors")
        if stored is None or not hasattr(column, "cat") or len(stored) != len(column.cat.categories):
            return {}
        colours = dict(zip(map(str, column.cat.categories), map(str, stored), strict=True)) | colours
    return colours
