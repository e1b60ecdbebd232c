"""The variants of a switchboard: their names and settings, how each is trained, and what a trained one puts out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._checks import shorten
from spade._samples.encode import BATCH, encode_rows
from spade._samples.model_features import Model, reads_patches
from spade._samples.open import iter_samples
from spade.core.checks import brief
from spade.models import SealConfig, SealModel, SpadeConfig
from spade.tl._embedding.modalities import encode
from spade.tl._switchboard.folds import SPLIT, Fold, training_copies
from spade.tl._switchboard.shared_spots import SharedSpots
from spade.tl._training.seal_setup import FEATURE_SETTINGS, PIXEL_SETTINGS, READING_SETTINGS
from spade.tl._training.train_seal import train_seal
from spade.tl._training.train_spade import train_spade

FROZEN, SPADE, SEAL, CONTROL = "frozen", "spade", "seal", "seal_shuffled"
CONTRASTIVE = {"gene_reconstruction": 0.0, "image_to_gene": 0.0}
#: Setting of a variant that stays on frozen features where the others fine-tune an encoder.
ON_FEATURES = "on_features"
#: Settings of every variant, beside those that all share.
VARIANTS: dict[str, dict[str, Any]] = {
    FROZEN: {},
    "projection": {ON_FEATURES: True, "head": "linear", **CONTRASTIVE},
    SPADE: {},
    SEAL: {},
    "seal_no_contrastive": {"contrastive": 0.0},
    "seal_no_gene_reconstruction": {"gene_reconstruction": 0.0},
    "seal_no_image_to_gene": {"image_to_gene": 0.0},
    "contrastive_only": CONTRASTIVE,
    CONTROL: {"shuffle_pairs": True},
}
#: Settings that the switchboard decides for all variants.
SHARED_SETTINGS = {
    "samples", "use_rep", "encoder", "weights", "genes", "layer", "normalized", "split_key", "patches_key", "table_key",
    "device", "checkpoint_dir", "rng",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """One variant: its name, the function that trains it (None: it is not trained) and the settings."""

    name: str
    train: Callable[..., Model] | None
    settings: dict[str, Any]
    on_features: bool


@dataclass(frozen=True)
class PixelSource:
    """Encoder and weights for variants that read patches (None: all variants read features), and the patches."""

    encoder: str | None
    weights: str | PathLike[str] | None
    patches_key: str


def resolve_variants(
    variants: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
    *,
    control: bool,
    spade_settings: Mapping[str, Any] | None,
    seal_settings: Mapping[str, Any] | None,
    tunes_encoder: bool,
) -> list[Variant]:
    """Return the variants asked for, the frozen one first; all settings are checked."""
    for argument, given in (("spade_settings", spade_settings), ("seal_settings", seal_settings)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"{argument}={brief(given)}: expected a dict of settings.")
    shared = {SPADE: dict(spade_settings or {}), SEAL: dict(seal_settings or {})}
    _check_settings(SPADE, shared[SPADE], "spade_settings")
    _check_settings(SEAL, shared[SEAL], "seal_settings")
    settings_of: dict[str, Mapping[str, Any]] = {FROZEN: {}, **_named_settings(variants)}
    if control:
        settings_of.setdefault(CONTROL, {})
    resolved = []
    for name, settings in settings_of.items():
        if not isinstance(settings, Mapping):
            raise TypeError(f"variants[{name!r}]={brief(settings)}: expected a dict of settings.")
        resolved.append(_resolve(name, settings, shared[_method(name)], tunes_encoder=tunes_encoder))
    if len(resolved) < 2:
        raise ValueError(
            "variants: there is nothing to compare the frozen control with; name a variant, or leave control=True."
        )
    return resolved


def _named_settings(
    variants: Sequence[str] | Mapping[str, Mapping[str, Any]] | None,
) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings of every variant by its name; None: all variants but the control."""
    if isinstance(variants, Mapping):
        return variants
    if variants is None:
        return {name: {} for name in VARIANTS if name != CONTROL}
    names = [variants] if isinstance(variants, str) or not isinstance(variants, Iterable) else list(variants)
    if unknown := [name for name in names if name not in VARIANTS]:
        raise ValueError(
            f"variants: {shorten(unknown)} are not known. There are {', '.join(map(repr, VARIANTS))}; to define "
            "others, pass a dict of their names and settings for sp.tl.train_seal."
        )
    return {name: {} for name in names}


def _method(name: str) -> str:
    """Return which method trains a variant."""
    return SPADE if name == SPADE else SEAL


def _resolve(name: str, settings: Mapping[str, Any], shared: Mapping[str, Any], *, tunes_encoder: bool) -> Variant:
    """Merge the settings of a variant with those that all trainings of its method share, and check them."""
    argument, method = f"variants[{name!r}]", _method(name)
    if name == FROZEN:
        if settings:
            raise ValueError(f"{argument}: the frozen control has no settings, got {shorten(settings)}.")
        return Variant(name, None, {}, on_features=True)
    own = VARIANTS.get(name, {}) | dict(settings)
    on_features = bool(own.pop(ON_FEATURES, False)) or not tunes_encoder or method == SPADE
    unused: set[str] = set()
    if method == SEAL:
        unused = {*PIXEL_SETTINGS, *READING_SETTINGS} if on_features else {*FEATURE_SETTINGS, "dim"}
    # some variants read pixels and others features, so each takes only those shared settings that it can use
    merged = {key: value for key, value in shared.items() if not (tunes_encoder and key in unused)} | own
    _check_settings(method, merged, argument)
    if idle := sorted(unused & set(merged)):
        reads = "a head on features" if on_features else "a tuned encoder"
        raise ValueError(f"{argument}: {shorten(idle)} has no meaning for {reads}; leave it out.")
    return Variant(name, train_spade if method == SPADE else train_seal, merged, on_features)


def _check_settings(method: str, settings: Mapping[str, Any], argument: str) -> None:
    """Raise for settings that are unknown to the training, shared by all variants or out of range."""
    train: Callable[..., Model] = train_spade if method == SPADE else train_seal
    config = SpadeConfig() if method == SPADE else SealConfig()
    decided = SHARED_SETTINGS | {ON_FEATURES}
    known = [name for name in inspect.signature(train).parameters if name not in decided]
    if unknown := [name for name in settings if name not in known]:
        shared = [name for name in unknown if name in decided]
        why = "is the same for all variants" if shared else f"is not a setting of sp.tl.train_{method}"
        raise ValueError(f"{argument}: {(shared or unknown)[0]!r} {why}. Settings: {', '.join(known)}.")
    names = {field.name for field in fields(config)}
    replace(config, **{name: value for name, value in settings.items() if name in names and value is not None})


def train_variant(
    variant: Variant, shared: SharedSpots, fold: Fold, pixels: PixelSource, *, seed: int, device: str
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
        images = {"encoder": pixels.encoder, "weights": pixels.weights, "patches_key": pixels.patches_key}
    return variant.train(
        training_copies(shared, fold),
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
    """What a variant makes of the shared spots.

    Attributes
    ----------
    image
        Representation of every row's image ``(n, d)``.
    joint
        Image and expression of the held-out rows in the model's joint space, rows of length 1; None: it has none.
    predicted
        Expression of the held-out rows by the model's own head ``(m, G)``; None: it has none.
    from_encoder
        Whether ``image`` are features of an encoder, of which a probe standardises every column.
    """

    image: NDArray[np.float32]
    joint: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
    predicted: NDArray[np.float32] | None = None
    from_encoder: bool = False


def run_variant(model: Model, shared: SharedSpots, fold: Fold, patches_key: str) -> VariantOutputs:
    """Embed all images with a trained model, and apply its joint space and head to the held-out rows."""
    features, tuned = shared.x, False
    if isinstance(model, SealModel) and reads_patches(model):
        tuned = True
        parts = [encode_rows(sample, model, patches_key, BATCH)[0] for sample in iter_samples(shared.samples)]
        features = np.concatenate(parts)
    held_out = features[fold.test]
    joint = predicted = None
    if not (isinstance(model, SealModel) and not model.config.contrastive):
        joint = (
            encode(model, "image", held_out, "concat", gallery=False),
            encode(model, "expression", shared.y[fold.test], "concat", gallery=True),
        )
    if isinstance(model, SealModel) and model.config.image_to_gene:
        predicted = model.predict_expression(held_out)
    return VariantOutputs(model.encode_image(features), joint, predicted, from_encoder=tuned)
