"""Features of a sample, checked against the model that reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from spatialdata import SpatialData

from spade import _keys
from spade._samples.features import key_in, read_features
from spade._samples.given.encoder_names import known_encoder
from spade._samples.given.origins import SOURCE, describe_source, origin, same_source, source_facts
from spade._samples.sample import Sample
from spade.core.checks import brief, check_text
from spade.core.errors import warn
from spade.core.files import digest
from spade.models import ProgramConfig, ProgramModel, SealConfig, SealModel, SpadeConfig, SpadeModel

Model: TypeAlias = SpadeModel | SealModel
#: By how much patches of a feature file, whose size is known roughly, may differ from those of training: from the first
#: on there is a warning, from the second on an error.
NEARLY, FAR = 1.25, 1.5
#: In the settings of a model of programs: the origin of a key is not known.
UNKNOWN = "-"
#: In messages: what the features of a sample are compared with.
OF_EARLIER_SAMPLES = "those of the routing or samples before it are"


def check_source(sample: Sample, use_rep: str, expected: Mapping[str, Any], what: str) -> dict[str, Any]:
    """Return what is known about the origin of ``obsm[use_rep]``; raise if it differs from the expected origin.

    Names are those of :class:`SpadeConfig`; see :func:`~spade._samples.given.origins.same_source`.
    """
    record: Mapping[str, Any] = _keys.read_provenance(sample.table.uns, use_rep)
    source, known = source_facts(record), {name: value for name, value in expected.items() if value is not None}
    of_another_program = "encoder" in record and "encoder_id" not in record
    if sample.file is not None or "about_um" in record or of_another_program:
        _check_taken_over(sample, use_rep, record, known, what)
    if not same_source(source, known):
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] comes from {describe_source(source)}, but {what} from "
            f"{describe_source(known)}. Encode patches of the same size with the same encoder, weights and colour=, "
            "and average them over the same radius_um= if at all."
        )
    return source | known


def _check_taken_over(
    sample: Sample, use_rep: str, record: Mapping[str, Any], known: Mapping[str, Any], what: str
) -> None:
    """Raise if features of another program are of another encoder, or of patches of clearly another size.

    They are in a feature file still, or were taken over. Where they do not say their encoder, it is warned of.
    """
    where, why = f"{sample.name}: obsm[{use_rep!r}]", ""
    if sample.file is not None:
        where, why = f"{sample.name}: {str(sample.file)!r}", " (its patch_size and target_magnification)"
    if sample.file is not None and known.get("context"):
        raise ValueError(
            f"{where} holds features of single patches, but {what} means over {known['context']}, which "
            "sp.pp.spatial_context makes. Lay the file on its slide with sp.io.from_trident(slide, file), and average "
            "there."
        )
    named, wanted = record.get("encoder"), known.get("encoder")
    one, other = known_encoder(named), known_encoder(wanted)
    if one and other and one != other:
        raise ValueError(
            f"{where} holds features of encoder {named!r}, but {what} of {wanted!r}. Encode the slide with that "
            "encoder."
        )
    if other and one is None:
        says = "feature files do not say their encoder" if named is None else f"{named!r} is no encoder known here"
        warn(
            f"{says}: that their features come from {wanted!r}, as {what}, is taken on trust. Only their width was "
            "compared."
        )
    about_um, patch_um = record.get("about_um"), known.get("patch_um")
    if about_um and patch_um and (factor := max(about_um / patch_um, patch_um / about_um)) > NEARLY:
        message = f"{where} holds patches of about {about_um:.0f} µm{why}, but {what} of {patch_um:g} µm."
        if factor > FAR:
            raise ValueError(
                f"{message} Encode the slide with patches of that size, or train on sp.pp.patches(samples, "
                f"size_um={about_um:.0f})."
            )
        warn(f"{message} Results may suffer.")


def read_program_features(sample: Sample, model: ProgramModel) -> NDArray[np.float32]:
    """Return the features ``(n_obs, D)`` of all keys that the model reads, NaN in rows where one is missing."""
    blocks = []
    if sample.file is not None and len(model.config.keys) > 1:
        raise ValueError(
            f"{sample.name}: the model reads {' + '.join(model.config.keys)}, but a feature file holds one "
            "representation. Pass the slide as a SpatialData, or train a model on one key."
        )
    for key, width in zip(model.config.keys, model.config.widths, strict=True):
        block = read_features(sample, key_in(sample, key))
        if block.shape[1] != width:
            raise ValueError(
                f"{sample.name}: obsm[{key!r}] has {block.shape[1]} features, but the model reads {width} of encoder "
                f"{model.config.encoder!r}. Encode the patches with that encoder."
            )
        blocks.append(block)
    check_keys(sample, model.config, "the model's features are")
    return np.concatenate(blocks, axis=1)


def check_keys(sample: Sample, config: ProgramConfig, what: str) -> dict[str, Any]:
    """Return the settings about the origin of all keys that a model of programs reads; raise if one differs."""
    first, *others = config.keys
    facts = check_source(sample, key_in(sample, first), source_of(config), what)
    ids = [_source_id(sample, key) for key in others]
    known = config.further_ids.split() if config.further_ids else [UNKNOWN] * len(others)
    for key, one, before in zip(others, ids, known, strict=True):
        if UNKNOWN not in (one, before) and one != before:
            raise ValueError(
                f"{sample.name}: obsm[{key!r}] is of {describe_source(origin(sample, key))}, but {what} of another "
                "encoder, patch size, colour or context. Make it as it was made there."
            )
    known = [one if before == UNKNOWN else before for one, before in zip(ids, known, strict=True)]
    return facts | {"further_ids": " ".join(known) or None}


def _source_id(sample: Sample, key: str) -> str:
    """Return an id of the origin of features, if their encoder is known by its id."""
    facts = origin(sample, key)
    return digest(json.dumps(facts, sort_keys=True)) if "encoder_id" in facts else UNKNOWN


def check_model(model: object, argument: str = "model") -> None:
    """Raise if this is not a trained model."""
    _check_kind(model, argument, (SpadeModel, SealModel))


def check_spade(model: object, argument: str = "model") -> None:
    """Raise if this is not a mixture of experts."""
    _check_kind(model, argument, (SpadeModel,))


def _check_kind(model: object, argument: str, kinds: tuple[type, ...]) -> None:
    if isinstance(model, kinds):
        return
    names = " or a ".join(kind.__name__ for kind in kinds)
    advice = f"read one with sp.models.{kinds[0].__name__}.load(path)"
    if isinstance(model, type) and issubclass(model, kinds):
        names, advice = (
            f"trained {model.__name__}, not the class",
            f"read one with sp.models.{model.__name__}.load(path)",
        )
    elif isinstance(model, (SpadeModel, SealModel)):
        advice = "other models have no experts"
    elif isinstance(model, SpatialData) or (isinstance(model, list) and model and isinstance(model[0], SpatialData)):
        advice = "samples come first, then the model"
    raise TypeError(f"{argument}={brief(model)}: expected a {names}; {advice}.")


def reads_patches(model: Model) -> bool:
    """Whether the model is a fine-tuned encoder, which reads patches instead of features."""
    return isinstance(model, SealModel) and model.reads_pixels


def features_key(model: Model, use_rep: str | None) -> str:
    """Return the key given; else the one of training or, for a tuned encoder, the one :func:`spade.tl.embed` writes."""
    known = _keys.image(_keys.SEAL) if reads_patches(model) else model.config.use_rep
    if use_rep is not None:
        return check_text("use_rep", use_rep)
    if not known:
        raise ValueError(
            "use_rep=None, and the model does not know the key of its features: name it, such as use_rep='X_uni'."
        )
    return known


def check_patch_size(sample: str, size_um: float, tuned_on: float | None) -> None:
    """Raise if patches differ in size from those that an encoder was tuned on."""
    if tuned_on is not None and abs(size_um - tuned_on) > 1e-6:
        raise ValueError(
            f"{sample}: its patches have {size_um:g} µm, but the model was tuned on patches of {tuned_on:g} µm. Make "
            f"them with sp.pp.patches(samples, size_um={tuned_on:g})."
        )


def read_model_features(sample: Sample, use_rep: str, model: Model) -> NDArray[np.floating]:
    """Return ``obsm[use_rep]``; raise if these are not features that the model was trained on."""
    if reads_patches(model):
        origin = _keys.read_provenance(sample.table.uns, use_rep)
        if origin.get("encoder_id") != model.id:
            raise ValueError(
                f"{sample.name}: obsm[{use_rep!r}] is missing, or another encoder wrote it. Encode the patches with "
                "sp.tl.embed(samples, model), or with sp.pp.encode_patches(samples, encoder=model) and name their key "
                "with use_rep=."
            )
        check_patch_size(sample.name, origin["size_um"], model.config.patch_um)
    use_rep = key_in(sample, use_rep)
    features = read_features(sample, use_rep)
    if features.shape[1] != model.n_features:
        raise ValueError(
            f"{sample.name}: obsm[{use_rep!r}] has {features.shape[1]} features, but the model reads "
            f"{model.n_features} of encoder {model.config.encoder!r}. Encode the patches with that encoder, or name "
            "its features with use_rep=."
        )
    if not reads_patches(model):
        check_source(sample, use_rep, source_of(model.config), "the model's features are")
    return features


def source_of(config: SpadeConfig | SealConfig | ProgramConfig) -> dict[str, Any]:
    """Return the origin of the features that a model was trained on."""
    return {name: getattr(config, name) for name in SOURCE}
