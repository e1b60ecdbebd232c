"""Attention of the patches that the predicted class of a slide rests on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import pandas as pd

from spade import _keys
from spade._checks import check_idle
from spade._said.lines import speaks, wrote
from spade._samples.features import Representation, named_representations, read_features
from spade._samples.given.output import FeatureOutput, check_out
from spade._samples.obs import categorical, check_free
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.arrays import Floats
from spade.core.checks import brief, check_choice, check_text
from spade.core.device import resolve_device
from spade.core.files import digest
from spade.core.rng import as_seed
from spade.io._cohort.places import Item, feature_name, feature_path
from spade.io._feature_files import FEATURES, features_digest
from spade.tl._few_shot.scores import Row
from spade.tl._slides.heads import SlideHead, fit_slide_head, read_moments
from spade.tl._slides.presets import slide_settings
from spade.tl._slides.slides import Slides, read_slides
from spade.tl._slides.task.scores import Predictions, prediction_rows
from spade.tl._slides.task.settings import SlideConfig, check_heads
from spade.tl._slides.task.targets import AUTO, CONTINUOUS

#: Heads that have attention.
ATTENTION_HEADS = ("abmil", "transmil")


@speaks
def attention(
    samples: Samples,
    *,
    label_key: str,
    target: str = AUTO,
    use_rep: Representation | None = None,
    head: str = "abmil",
    labels: pd.DataFrame | None = None,
    slide_key: str | None = None,
    groupby: str | None = "patient",
    preset: str | None = None,
    loss: str | None = None,
    scaling: str | None = None,
    class_weights: bool | None = None,
    hidden: int | Sequence[int] | None = None,
    dropout: float = SlideConfig.dropout,
    n_epochs: int = SlideConfig.n_epochs,
    lr: float | None = None,
    schedule: str | None = None,
    weight_decay: float = SlideConfig.weight_decay,
    patience: int = SlideConfig.patience,
    inner_val: float = SlideConfig.inner_val,
    device: str = "auto",
    table_key: str | None = None,
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
    out: str | PathLike[str] | None = None,
) -> pd.DataFrame:
    """Train one head on all slides with a label, and write its attention to the patches of every slide.

    The head was trained on the labelled slides, so its predictions for them say nothing about new slides; for that use
    :func:`slide_task`. Attention tells which patches decided, not for which class, grade or number.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these. Those without ``obs[label_key]`` are only
        predicted. Or feature files as TRIDENT and CLAM write them: a folder, a pattern, a list or a sample sheet.
    label_key
        ``obs`` column of the classes, grades or numbers, one value per slide.
    target
        ``"classes"``, ``"ordinal"``, ``"continuous"`` or ``"auto"``, as in :func:`slide_task`.
    use_rep
        ``obsm`` key of a representation; a tuple of keys is concatenated. Feature files have one, without a key.
    head
        ``"abmil"`` or ``"transmil"``, as in :func:`slide_task`; for the latter, the attention of the class token in the
        last layer.
    labels, slide_key, device
        As in :func:`slide_task`.
    preset, loss, scaling, class_weights, hidden, dropout, n_epochs, lr, schedule, weight_decay, patience
        As in :func:`slide_task`.
    groupby
        Column of the patient, as in :func:`slide_task`, by which the slides that select the epoch are split off.
    inner_val
        Share of the slides that selects the epoch, as in :func:`slide_task`.
    table_key
        Table; may be left out when there is one.
    rng
        Seed.
    key_added
        ``obs`` key; None: ``"<label_key>_attention"``.
    out
        For feature files: folder in which every slide gets a file, as in :func:`embed`.

    Returns
    -------
    DataFrame
        ``slide``, ``label`` (empty: none), ``predicted`` and, of classes and grades, ``probability_<class>`` of every
        slide, as :func:`slide_task` names them; numbers are float, and a label that is missing is NaN. With label key
        ``organ`` it writes ``obs["organ_attention"]``, float32 that sums to 1 over the patches of a slide, NaN where
        there are no features, and ``obs["organ_attention_predicted"]``, what is predicted for the patch's slide: a
        category (of grades in their order), or float64 for numbers.
        :func:`spade.pl.attention` draws them. Of feature files, ``out`` gets one ``<slide>.h5`` each, with the
        attention as ``features``, float32 ``(n, 1)``, and ``coords``.

    Raises
    ------
    KeyError
        No such column in any sample, or no such representation.
    ValueError
        A single class, grade or value; numbers that may be classes or amounts, grades without an order, numbers that
        are not finite, as in :func:`slide_task`; settings that the target does not have; a slide without patches, with
        several labels or of another width.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(4, 20)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> slides = sp.tl.attention(samples, label_key="organ", use_rep="X_texture", n_epochs=3)
    >>> slides["slide"].tolist()
    ['toy_0', 'toy_1', 'toy_2', 'toy_3']
    >>> round(float(samples[0]["table"].obs["organ_attention"].sum()), 3)
    1.0

    Which patches does an age rest on?

    >>> for i, sample in enumerate(samples):
    ...     sample["table"].obs["age"] = 40.0 + i
    >>> slides = sp.tl.attention(samples, label_key="age", target="continuous", use_rep="X_texture", n_epochs=3)
    >>> slides.columns.tolist()
    ['slide', 'label', 'predicted']
    """
    if isinstance(use_rep, list):
        raise TypeError(
            f"use_rep={brief(use_rep)}: expected one representation, a key or a tuple of keys to concatenate."
        )
    items = as_list(samples)
    folder = check_out(items, out)
    if folder is not None:
        check_idle([("key_added", key_added, None), ("table_key", table_key, None)], "feature files have no table")
    in_obsm = None if folder is not None and use_rep is None else named_representations(use_rep)
    ((name, obsm_keys),) = (in_obsm or {FEATURES: ()}).items()
    may_be_preset = {
        "scaling": scaling, "class_weights": class_weights, "hidden": hidden, "lr": lr, "schedule": schedule,
        "loss": loss,
    }  # fmt: skip
    config = slide_settings(
        target, preset, may_be_preset, dropout=dropout, n_epochs=n_epochs, weight_decay=weight_decay,
        patience=patience, inner_val=inner_val,
    )  # fmt: skip
    (head,) = check_heads(check_choice("head", head, ATTENTION_HEADS), hidden=config.hidden)
    for argument, column in (("label_key", label_key), ("groupby", groupby), ("slide_key", slide_key)):
        if column is not None or argument == "label_key":
            check_text(argument, column)
    key = _keys.check_key(f"{label_key}_attention" if key_added is None else key_added)
    device = resolve_device(device)
    seed = as_seed(rng)
    if folder is None:
        as_list(items, writes=True)
        _check_keys_free(items, key, table_key, (label_key, groupby, slide_key))
    slides = read_slides(
        items,
        in_obsm,
        columns={"label_key": label_key, "groupby": groupby},
        labels=labels,
        slide_key=slide_key,
        table_key=table_key,
        optional=("label_key",),
        target=target,
    )
    moments = read_moments(slides.bags, name, slides.labelled)
    fitted = fit_slide_head(slides, name, moments, head, slides.labelled, config=config, device=device, seed=seed)
    if folder is not None:
        facts = {"label_key": label_key, "head": head, "seed": seed, "settings": digest(f"{config} {groupby}")}
        return pd.DataFrame(_write_files(items, slides, fitted, folder, facts | _learnt_from(items, slides)))
    rows: list[Row] = []
    for number, sample in enumerate(iter_samples(items, table_key=table_key, writes=True)):
        rows += _write_attention(sample, number, slides, fitted, key)
        _keys.write_provenance(
            sample.table.uns, key, function="tl.attention", label_key=label_key, use_rep=" + ".join(obsm_keys),
            target=slides.kind, head=head, slide_key=slide_key, n_labels=len(slides.labelled), n_epochs=n_epochs,
            lr=config.lr, scaling=config.scaling, seed=seed,
        )  # fmt: skip
        _keys.write_parts(sample.table.uns, key, f"{key}_predicted")
        sample.save()
        wrote(sample.name, f"obs[{key!r}]", f"obs['{key}_predicted']")
    return pd.DataFrame(rows)


def _check_keys_free(items: Samples, key: str, table_key: str | None, columns_read: Sequence[str | None]) -> None:
    """Raise if one of the columns to write is read, or used by the table or this package."""
    for name in (key, f"{key}_predicted"):
        if name in columns_read:
            raise ValueError(f"key_added={key!r} would replace obs[{name!r}], which is read; choose another name.")
        for sample in iter_samples(items, table_key=table_key):
            check_free(sample, name)
    for sample in iter_samples(items, table_key=table_key):
        _keys.check_parts(sample.table.uns, sample.name, key, "tl.attention", key, f"{key}_predicted")


def _read(slides: Slides, head: SlideHead, i: int) -> tuple[Row, Floats]:
    """Return what is predicted for a slide, as :func:`slide_task` names it, and the attention of its patches."""
    outputs, weights = head.read(i)
    (row,) = prediction_rows(slides, Predictions(np.array([i]), outputs[None], np.full(1, np.nan), head.loss))
    return {name: value for name, value in row.items() if name != "group"}, weights / weights.sum()


def _learnt_from(items: Sequence[Item], slides: Slides) -> dict[str, object]:
    """Return facts about all slides, which change when another head is learnt: all files of a folder are of one.

    They are the labels and how these are read, the patients, and the features of the slides with a label, in order.
    """
    names, path_of = slides.bags.names, {feature_name(item): feature_path(item) for item in items}
    labels = zip(names, slides.bags.facts["label_key"], strict=True)
    return {
        "labels": digest("\n".join([f"{name}\t{label}" for name, label in labels] + [slides.kind, *slides.classes])),
        "patients": digest("\n".join(slides.group.astype(str))),
        "learnt_from": digest("\n".join(features_digest(path_of[names[i]]) for i in slides.labelled)),
    }


def _write_files(
    items: Sequence[Item], slides: Slides, head: SlideHead, folder: Path, facts: Mapping[str, object]
) -> list[Row]:
    """Write the attention of every slide into a file; return a row of the result for every slide."""
    item_of, results = {feature_name(item): item for item in items}, []
    output = FeatureOutput(folder, {"function": "tl.attention", **facts})
    pending = {feature_name(item) for item in output.pending(items)}
    for i, name in enumerate(slides.bags.names):
        row, weights = _read(slides, head, i)
        results.append(row)
        for sample in iter_samples([item_of[name]]) if name in pending else ():
            values = np.full((sample.table.n_obs, 1), np.nan, dtype=np.float32)
            values[~np.isnan(read_features(sample, FEATURES)).any(1), 0] = weights
            output.write(sample, values, {})
    return results


def _write_attention(sample: Sample, number: int, slides: Slides, head: SlideHead, key: str) -> list[Row]:
    """Write attention and prediction of every patch; return a row of the result for every slide of the sample."""
    attention_of_row = np.full(sample.table.n_obs, np.nan, dtype=np.float32)
    is_number = slides.kind == CONTINUOUS
    predicted = np.full(sample.table.n_obs, np.nan if is_number else "", dtype=np.float64 if is_number else object)
    results: list[Row] = []
    for i, (of_sample, rows) in enumerate(slides.bags.places):
        if of_sample != number:
            continue
        row, attention_of_row[rows] = _read(slides, head, i)
        results.append(row)
        predicted[rows] = row["predicted"]
    sample.table.obs[key] = attention_of_row
    sample.table.obs[f"{key}_predicted"] = predicted if is_number else categorical(predicted, slides.classes)
    return results
