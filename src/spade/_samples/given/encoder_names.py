"""What other programs call encoders in their feature files."""

from __future__ import annotations

from spade.encoders._spec import known

#: Encoders of TRIDENT's ``encoder_factory`` that are not in the registry here; its ``resnet50`` ends a stage earlier.
OTHERS = ("resnet50", "keep", "virchow2-cls", "phaet", "mascaret", "genbio-pathfm", "gemma4-e4b", "gemma4-26b")


def known_encoder(name: object) -> str | None:
    """Return the name here of an encoder that is known by this name, or that of another program; None: unknown."""
    if not isinstance(name, str):
        return None
    spec = known(name)
    return spec.name if spec else name if name in OTHERS else None
