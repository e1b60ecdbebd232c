"""What representations were made by, and whether those of several samples are of one kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from spade import _keys
from spade._samples.given.encoder_names import known_encoder
from spade._samples.sample import Sample

#: Origin of features: names in the settings of models, and in the records of ``pp.encode_patches`` and
#: ``pp.spatial_context``.
SOURCE = {
    "encoder": "encoder",
    "encoder_id": "encoder_id",
    "patch_um": "size_um",
    "patch_px": "input_px",
    "colour": "colour",
    "context": "context",
}
#: Ids of what wrote other values, and what they are called.
MADE_BY = {"model_id": "model", "routing_id": "clustering"}


def source_facts(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a record says of the origin of features, by the names of settings."""
    found = {name: record[key] for name, key in SOURCE.items() if key in record}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}


def same_source(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two origins of features may be one; a fact that is unknown on either side is not compared.

    Ids of encoders count before their names. Where both encoders are known, no fact about colours or context means that
    patches have their own colours, and that features are those of the patch alone.
    """
    names = [name for name in ("encoder_id", "patch_um", "patch_px") if name in one and name in other]
    if "encoder_id" in one and "encoder_id" in other:
        names.append("colour")
    else:
        encoders = [known_encoder(facts.get("encoder")) for facts in (one, other)]
        if all(encoders) and encoders[0] != encoders[1]:
            return False
    if "encoder" in one and "encoder" in other:
        names.append("context")
    return all(one.get(name) == other.get(name) for name in names)


def describe_source(source: Mapping[str, Any]) -> str:
    """Say what features are of, for messages."""
    parts = [f"encoder {source.get('encoder')!r} (id {source.get('encoder_id')})"]
    if "patch_um" in source:
        parts.append(f"patches of {source['patch_um']:g} µm at {source.get('patch_px')} px")
    if "colour" in source:
        parts.append(f"colour {source['colour']}")
    if "context" in source:
        parts.append(f"means over {source['context']}")
    return ", ".join(parts)


def origin(sample: Sample, key: str) -> dict[str, Any]:
    """Return what a value was made by: the id of a model or a clustering, else the origin of features; empty: unknown.

    What has no facts of its own, as the part of a result, is of the origin of what it was made from.
    """
    record: Mapping[str, Any] = _keys.read_provenance(sample.table.uns, key)
    if made_by := {name: str(record[name]) for name in MADE_BY if name in record}:
        return made_by
    if "regions" in record:
        return {}
    if facts := source_facts(record):
        return facts
    return next((found for source in record.get("sources", {}) if (found := origin(sample, source))), {})


class Origins:
    """The origins of representations, which must be one in all samples that are put together."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[str, dict[str, Any]]] = {}

    def check(self, sample: Sample, key: str, called: str | None = None) -> None:
        """Raise if a value has another origin than in samples before; ``called`` is its key in these."""
        found = origin(sample, key)
        if not found:
            return
        name, first = self._first.setdefault(key if called is None else called, (sample.name, found))
        made_by = [one for one in MADE_BY if one in first or one in found]
        if any(first.get(one) != found.get(one) for one in made_by) or not same_source(first, found):
            raise ValueError(
                f"{sample.name}: {key!r} is of {_describe(found)}, but in {name} of {_describe(first)}: they cannot be "
                "put together. Make it by one and the same in all samples."
            )


def _describe(found: Mapping[str, Any]) -> str:
    for name, called in MADE_BY.items():
        if name in found:
            return f"{called} {found[name]}"
    return describe_source(found)
