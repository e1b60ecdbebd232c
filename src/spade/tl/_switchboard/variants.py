"""The variants of a switchboard: which there are, their settings, and how each is trained."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade._samples.encode import BATCH, encode_rows
from spade._samples.model_features import Model, reads_patches
from spade._samples.open import iter_samples
from spade.models import SealConfig, SealModel, SpadeConfig
from spade.tl._embedding.modalities import encode
from spade.tl._switchboard.shared_spots import SPLIT, Fold, SharedSpots
from spade.tl._training.seal_setup import FEATURE_SETTINGS, PIXEL_SETTINGS, READING_SETTINGS
from spade.tl._training.train_seal import train_seal
from spade.tl._training.train_spade import train_spade

FROZEN, SPADE, CONTROL = "frozen", "spade", "seal, shuffled pairs"
CONTRASTIVE = {"gene_reconstruction": 0.0, "image_to_gene": 0.0}
#: Setting of a variant that stays on frozen features where the others tune an encoder.
ON_FEATURES = "on_features"
#: Settings of every variant, beside those that all share.
VARIANTS: dict[str, dict[str, Any]] = {
    FROZEN: {},
    "projection": {ON_FEATURES: True, "head": "linear", **CONTRASTIVE},
    SPADE: {},
    "seal": {},
    "seal without contrastive": {"contrastive": 0.0},
    "seal without gene reconstruction": {"gene_reconstruction": 0.0},
    "seal without image-to-gene": {"image_to_gene": 0.0},
    "contrastive only": CONTRASTIVE,
    CONTROL: {"shuffle_pairs": True},
}
#: What the switchboard decides for all.
SHARED_SETTINGS = {
    "samples", "use_rep", "encoder", "weights", "genes", "layer", "normalized", "split_key", "patches_key", "table_key", "device",
    "checkpoint_dir", "rng",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One variant: its name, how it is trained (None: not at all) and with what."""

    name: str
    train: Callable[..., Model] | None
    settings: dict[str, Any]
    on_features: bool


def resolve_variants(
    wanted: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
    control: bool,
    spade_settings: Mapping[str, Any] | None,
    seal_settings: Mapping[str, Any] | None,
    tunes: bool,
) -> list[Variant]:
    """Return the variants asked for, the frozen one first; all settings are checked."""
    shared = {SPADE: dict(spade_settings or {}), "seal": dict(seal_settings or {})}
    _check(train_spade, SpadeConfig(), shared[SPADE], "spade_settings")
    _check(train_seal, SealConfig(), shared["seal"], "seal_settings")
    if isinstance(wanted, str):
        wanted = [wanted]
    own: dict[str, Mapping[str, Any]] = {FROZEN: {}}
    if isinstance(wanted, Mapping):
        own |= wanted
    else:
        names = [name for name in VARIANTS if name != CONTROL] if wanted is None else list(wanted)
        if odd := [name for name in names if name not in VARIANTS]:
            raise ValueError(
                f"variants: {shorten(odd)} are not known. There are {', '.join(map(repr, VARIANTS))}; others are given as a dict of their "
                "names and settings for sp.tl.train_seal."
            )
        own |= {name: {} for name in names}
    if control:
        own.setdefault(CONTROL, {})
    found = []
    for name, settings in own.items():
        where = f"variants[{name!r}]"
        if not isinstance(settings, Mapping):
            raise TypeError(f"{where}={settings!r}: expected a dict of settings.")
        if name == FROZEN:
            if settings:
                raise ValueError(f"{where}: the frozen control has no settings, got {shorten(settings)}.")
            found.append(Variant(name, None, {}, True))
            continue
        kind = SPADE if name == SPADE else "seal"
        train, config = (train_spade, SpadeConfig()) if kind == SPADE else (train_seal, SealConfig())
        chosen = VARIANTS.get(name, {}) | dict(settings)
        on_features = bool(chosen.pop(ON_FEATURES, False)) or not tunes or kind == SPADE
        idle: set[str] = set()
        if kind != SPADE:
            idle = {*PIXEL_SETTINGS, *READING_SETTINGS} if on_features else {*FEATURE_SETTINGS, "dim"}
        # some variants read pixels and some features: each takes of what is meant for all what it has a use for
        merged = {one: value for one, value in shared[kind].items() if not (tunes and one in idle)} | chosen
        _check(train, config, merged, where)
        if odd := sorted(idle & set(merged)):
            reads = "a head on features" if on_features else "a tuned encoder"
            raise ValueError(f"{where}: {shorten(odd)} has no meaning for {reads}; leave it out.")
        found.append(Variant(name, train, merged, on_features))
    if len(found) < 2:
        raise ValueError(
            "variants: there is nothing to compare the frozen control with; name one, or leave control=True."
        )
    return found


def _check(train: Callable[..., Any], config: Any, settings: Mapping[str, Any], where: str) -> None:
    """Raise for settings that the training does not have, or that are set for all variants, or out of range."""
    known = [name for name in inspect.signature(train).parameters if name not in SHARED_SETTINGS | {ON_FEATURES}]
    if odd := [name for name in settings if name not in known]:
        taken = [name for name in odd if name in SHARED_SETTINGS | {ON_FEATURES}]
        why = "is the same for all variants" if taken else f"is no setting of sp.tl.{train.__name__}"
        raise ValueError(f"{where}: {taken[0] if taken else odd[0]!r} {why}. Settings: {', '.join(known)}.")
    names = {field.name for field in fields(config)}
    replace(config, **{name: value for name, value in settings.items() if name in names and value is not None})


def train_variant(
    variant: Variant,
    shared: SharedSpots,
    fold: Fold,
    seed: int,
    encoder: str | None,
    weights: str | PathLike[str] | None,
    patches_key: str,
    device: str,
) -> Model:
    """Train one variant on the spots of a fold that are not held out."""
    if variant.train is None:
        raise ValueError(f"variant {variant.name!r} is not trained.")
    images: dict[str, Any]
    if variant.name == SPADE:
        images = {"use_rep": shared.use_rep}
    elif variant.on_features:
        images = {"on_features": shared.use_rep}
    else:
        images = {"encoder": encoder, "weights": weights, "patches_key": patches_key}
    return variant.train(
        shared.training(fold),
        **images,
        genes=shared.panel,
        normalized=True,
        split_key=SPLIT,
        device=device,
        rng=seed,
        **variant.settings,
    )


@dataclass(frozen=True)
class VariantOutputs:
    """What a variant makes of a cohort.

    Attributes
    ----------
    image
        Representation of every row's image ``(n, d)``.
    joint
        Image and expression of the held-out rows in its own space, rows of length 1; None: it was not trained to have one.
    predicted
        Expression of the held-out rows by its own head ``(m, G)``; None: it has none.
    """

    image: NDArray[np.float32]
    joint: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    predicted: NDArray[np.float32] | None = None


def run_variant(model: Model, shared: SharedSpots, fold: Fold, patches_key: str) -> VariantOutputs:
    """Embed all images by a trained model, and the held-out rows by all that it has."""
    features = shared.x
    if isinstance(model, SealModel) and reads_patches(model):
        parts = [encode_rows(sample, model, patches_key, BATCH)[0] for sample in iter_samples(shared.samples)]
        features = np.concatenate(parts)
    image = model.encode_image(features)
    held_out = features[fold.test]
    joint = predicted = None
    if not (isinstance(model, SealModel) and not model.config.contrastive):
        joint = (
            encode(model, "image", held_out, "concat", gallery=False),
            encode(model, "expression", shared.y[fold.test], "concat", gallery=True),
        )
    if isinstance(model, SealModel) and model.config.image_to_gene:
        predicted = model.predict_expression(held_out)
    return VariantOutputs(image, joint, predicted)
