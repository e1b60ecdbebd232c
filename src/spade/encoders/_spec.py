"""What is known of each image encoder, read from the facts in ``_facts.toml``."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from html import escape
from importlib.resources import files
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from spade.core.checks import check_text

NOT_STATED = "not stated"
HUB = "hf-hub:"


@dataclass(frozen=True)
class EncoderSpec:
    """Facts of one encoder.

    Attributes
    ----------
    name
        Name in the registry.
    model
        timm architecture or ``hf-hub:`` id of the published weights; None: built in, or not on the hub.
    architecture
        Architecture, so that a local weights file needs no network; None if only the hub knows it.
    dim
        Width of the features; None: that of the model.
    input_px
        Side of the input in pixels; None: that of the model.
    mpp
        µm/px of the patches it is meant for; None if not stated.
    mean
        Mean of red, green and blue that the input is normalised by; None: the architecture's own.
    std
        Their deviation; None: the architecture's own.
    licence
        Terms of the weights.
    gated
        Whether access must be requested from the owner; None if not known.
    kwargs
        Arguments of the architecture.
    pool
        ``"model"``: what the architecture returns. ``"cls+mean"``: class token beside the mean of the patch tokens.
    file
        File of the weights on the hub; None: timm knows.
    page
        Where to get weights that are not on the hub.
    aliases
        Names in other programs.
    requires
        Python module that defines the architecture; None: no further one.
    install
        How that module is installed.
    source
        What the facts were read in.
    """

    name: str
    model: str | None
    architecture: str | None
    dim: int | None = None
    input_px: int | None = None
    mpp: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    licence: str = NOT_STATED
    gated: bool | None = None
    kwargs: Callable[[], dict[str, Any]] = field(default=dict)
    pool: str = "model"
    file: str | None = None
    page: str | None = None
    aliases: tuple[str, ...] = ()
    requires: str | None = None
    install: str | None = None
    source: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"EncoderSpec: {described(self)}, licence {self.licence}, {self.access}"

    @property
    def access(self) -> str:
        """Whether access must be requested, in words."""
        return {True: "access on request", False: "open", None: "access not stated"}[self.gated]


class EncoderTable(dict[str, EncoderSpec]):
    """The encoders that are known by name, which a notebook shows as a table."""

    def __repr__(self) -> str:
        from spade._checks import shorten  # needs pandas, which core and encoders alone do without

        return f"{len(self)} encoders: {shorten(self, 8)}\nsp.encoders.available()['uni2_h'] says more of one"

    def _repr_html_(self) -> str:
        heads = ("name", "features", "input, px", "µm/px", "licence", "access")
        rows = (
            (spec.name, spec.dim or "", spec.input_px or "any", spec.mpp or NOT_STATED, spec.licence, spec.access)
            for spec in self.values()
        )
        head = "".join(f"<th>{head}</th>" for head in heads)
        body = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


class Encoder(Protocol):
    """An encoder that is ready to run."""

    @property
    def name(self) -> str:
        """Name, from which the key of its features is made."""

    @property
    def id(self) -> str:
        """Identity of its weights and of all else that changes its features."""

    @property
    def dim(self) -> int:
        """Width of its features."""

    @property
    def input_px(self) -> int | None:
        """Side of its input in pixels; None if it takes any."""

    @property
    def mpp(self) -> float | None:
        """µm/px of the patches it is meant for; None if not stated."""

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode ``(n, px, px, 3)`` patches at ``mpp`` µm/px to ``(n, dim)``."""


def described(encoder: EncoderSpec | Encoder) -> str:
    """Return name, width, input and resolution of an encoder in words."""
    input_px = f"input of {encoder.input_px} px" if encoder.input_px else "input of any size"
    mpp = f"{encoder.mpp:g} µm/px" if encoder.mpp else "any µm/px" if encoder.name == "texture" else "µm/px not stated"
    features = f"{encoder.dim:,} features" if encoder.dim else "features not stated"
    return f"{encoder.name}, {features}, {input_px}, {mpp}"


def _read() -> dict[str, EncoderSpec]:
    """Return the registry, in the order of the file."""
    content = tomllib.loads(files("spade.encoders").joinpath("_facts.toml").read_text(encoding="utf-8"))
    sources, moments = content.pop("sources"), content.pop("moments")
    return {name: _spec(name, content, sources, moments) for name in content}


def _spec(name: str, content: dict[str, Any], sources: dict[str, str], moments: dict[str, Any]) -> EncoderSpec:
    """Return an entry of the registry; one with a ``base`` has the facts of it, but for those of the weights."""
    facts = dict(content[name])
    if "base" in facts:
        of_base = ("architecture", "kwargs", "dim", "input_px", "mpp", "moments", "pool")
        facts = {key: value for key, value in content[facts.pop("base")].items() if key in of_base} | facts
    chosen = moments[facts.pop("moments")] if "moments" in facts else {}
    facts |= {key: tuple(value) for key, value in chosen.items()}
    facts["kwargs"] = partial(_with_classes, facts.get("kwargs", {}))
    facts["aliases"] = tuple(facts.get("aliases", ()))
    facts["source"] = tuple(sources[key] for key in facts.get("source", ()))
    return EncoderSpec(name, facts.pop("model", None), facts.pop("architecture", None), **facts)


def _with_classes(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return arguments of an architecture with the layers that they name."""
    layers = {"mlp_layer": "timm.layers", "act_layer": "torch.nn"}
    return {key: _layer(layers[key], value) if key in layers else value for key, value in kwargs.items()}


def _layer(module: str, name: str) -> Any:
    from importlib import import_module

    return getattr(import_module(module), name)


SPECS: dict[str, EncoderSpec] = _read()


def known(name: str) -> EncoderSpec | None:
    """Return the entry of a name of the registry, of another program, or of the hub, unless it is not known."""
    spec = SPECS.get(name)
    return spec or next((s for s in SPECS.values() if name in s.aliases or (name == s.model and not _shared(s))), None)


def _shared(spec: EncoderSpec) -> bool:
    """Whether several entries are files of the same place on the hub."""
    return sum(other.model == spec.model for other in SPECS.values()) > 1


def spec_of(encoder: object) -> EncoderSpec:
    """Return what is known of an encoder, or raise with the names that are known."""
    name = check_text("encoder", encoder)
    if spec := known(name):
        return spec
    import timm

    on_hub = name.startswith(HUB)
    if not on_hub and not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        raise ValueError(
            f"encoder={name!r} is not known. Choose one of {', '.join(map(repr, SPECS))}, any timm architecture"
            f"{' such as ' + ', '.join(near) if near else ''}, or 'hf-hub:owner/name'."
        )
    return EncoderSpec(name, name, None if on_hub else name)


def licence_of(encoder: str | None) -> str:
    """Return the licence of the weights of an encoder, as far as it is known."""
    return SPECS[encoder].licence if encoder in SPECS else "not recorded"
