"""What other programs call encoders in their feature files."""

from __future__ import annotations

from spade.encoders._spec import SPECS

#: Encoders of TRIDENT's ``encoder_factory`` that are in the registry here under another name.
RENAMED = {"uni_v1": "uni", "uni_v2": "uni2_h", "hoptimus0": "h_optimus_0", "hoptimus1": "h_optimus_1"}
#: Its other encoders, which are not in the registry.
OTHERS = (
    "conch_v1", "conch_v15", "digepath", "ctranspath", "phikon", "phikon_v2", "resnet50", "keep", "gigapath-flash",
    "virchow2-cls", "h0-mini", "phaet", "mascaret", "musk", "openmidnight", "midnight12k", "gpfm", "hibou_l",
    "kaiko-vitb8", "kaiko-vitb16", "kaiko-vits8", "kaiko-vits16", "kaiko-vitl14", "lunit-vits8", "genbio-pathfm",
    "gemma4-e4b", "gemma4-26b",
)  # fmt: skip


def known_encoder(name: object) -> str | None:
    """Return the name here of an encoder that is known by this name, or that of another program; None: unknown."""
    if not isinstance(name, str):
        return None
    hubs = {spec.model: spec.name for spec in SPECS.values() if spec.model}
    name = RENAMED.get(name, hubs.get(name, name))
    return name if name in SPECS or name in OTHERS else None
