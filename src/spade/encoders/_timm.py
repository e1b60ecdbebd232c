"""Networks of the registry, of timm and of the hub as frozen patch encoders."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from spade.core.checks import brief, check_choice, check_path
from spade.core.device import PRECISIONS, resolve_device
from spade.core.errors import warn
from spade.core.rng import as_seed, torch_stream
from spade.encoders._check import in_cache
from spade.encoders._network import NetworkEncoder
from spade.encoders._spec import HUB, EncoderSpec
from spade.io._hub.download import check_unchanged
from spade.io._hub.reach import offline, why_not_reached
from spade.io._state_dict import WRAPPERS, check_finite, keys_fitting, other_prefix, read_state, reason

if TYPE_CHECKING:
    import torch

    Weights: TypeAlias = str | PathLike[str] | Mapping[str, torch.Tensor] | None


class TimmEncoder(NetworkEncoder):
    """A network of the registry, or any timm model, with its own input size, mean and deviation.

    Parameters
    ----------
    spec
        What to build.
    weights
        None: the published weights; a path: a local file; ``"random"``: untrained weights; or tensors by name.
    device, precision
        Where and in which precision it runs (``"fp32"`` or ``"bf16"``).
    rng
        Seed of random weights.
    """

    input_px: int

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        weights: Weights = None,
        device: str = "auto",
        precision: str = "fp32",
        rng: int | np.random.Generator = 0,
    ) -> None:
        check_choice("precision", precision, PRECISIONS)
        device = resolve_device(device)
        self.spec = spec
        model = _build(spec, weights, rng)
        input_px, *moments = input_of(spec, model)
        super().__init__(
            model, name=spec.name, input_px=input_px, moments=moments, mpp=spec.mpp, pool=spec.pool, device=device,
            precision=precision,
        )  # fmt: skip
        if spec.dim and self.dim != spec.dim:
            raise ValueError(f"encoder={spec.name!r} gives {self.dim} features, but is known to give {spec.dim}.")


def input_of(spec: EncoderSpec, model: torch.nn.Module) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Return side, mean and deviation of the input: those of the encoder's facts, else those of the architecture."""
    if spec.input_px and spec.mean and spec.std:
        return spec.input_px, spec.mean, spec.std
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(model)
    return spec.input_px or int(data["input_size"][-1]), spec.mean or data["mean"], spec.std or data["std"]


def _build(spec: EncoderSpec, weights: Weights, rng: int | np.random.Generator) -> torch.nn.Module:
    from spade.encoders._architectures import created

    if weights is None:
        return _published(spec)
    if not isinstance(weights, (str, PathLike, Mapping)):
        raise ValueError(f"weights={brief(weights)}: expected None, 'random' or the path of a file.")
    if not spec.architecture:
        raise ValueError(
            f"encoder={spec.name!r}: a hub id names weights, not an architecture. With weights=, give the timm "
            "architecture as encoder=, such as 'vit_small_patch16_224'."
        )
    if isinstance(weights, Mapping):
        model = created(spec)
        fit_strict(model, dict(weights), "weights", spec.name)
        return model
    if weights != "random":
        path = check_path("weights", weights)
        model = created(spec)
        load_strict(model, path, spec.name)
        return model
    warn(f"encoder={spec.name!r} has random weights: its features mean nothing until it is trained.")
    return created(spec, seed=torch_stream(as_seed(rng), "encoder weights").initial_seed())


def _published(spec: EncoderSpec) -> torch.nn.Module:
    """Return a network with its published weights, downloaded unless they are in the cache of the hub."""
    from spade.encoders._architectures import created

    if spec.page:
        raise RuntimeError(
            f"encoder={spec.name!r}: its weights are not on the hub. Download the file from {spec.page} (licence: "
            f"{spec.licence}) and pass weights='path/to/file.pth'. weights='random' gives untrained weights."
        )
    if (cached := in_cache(spec)) is not None:
        check_unchanged([cached], f"encoder={spec.name!r}")
    unreached = why_not_reached()
    try:
        with offline(when=bool(unreached)):
            if spec.file is None:
                model = created(spec, pretrained=True)
            else:
                from huggingface_hub import hf_hub_download

                path = hf_hub_download((spec.model or "").removeprefix(HUB), spec.file)
    except (OSError, RuntimeError, ValueError) as error:  # every failure of the hub client is one of these
        access = f"Request access on the model's page (licence: {spec.licence}) and log in, or download"
        raise RuntimeError(
            f"encoder={spec.name!r}: the published weights of {spec.model!r} could not be downloaded "
            f"({unreached or reason(error)}). {access if spec.gated else 'Download'} the file elsewhere and pass "
            "weights='path/to/model.safetensors'. weights='random' gives untrained weights."
        ) from error
    if spec.file is None:
        check_finite(model.state_dict(), f"the published weights of {spec.model or spec.name!r}")
        return model
    model = created(spec)
    load_strict(model, Path(path), spec.name)
    return model


def load_strict(model: torch.nn.Module, path: Path, name: str) -> None:
    """Load a ``.safetensors`` or torch file into ``model``; every key must fit, and nothing in the file is executed.

    What stands around the state dict, or before its keys, is removed as :func:`~spade.io._state_dict.read_state` and
    :func:`~spade.io._state_dict.keys_fitting` say, and the names of other programs are replaced as
    :func:`~spade.encoders._layouts.as_built` says. The classifier of the architecture is left out.
    """
    from spade.encoders._layouts import as_built

    what = f"weights={str(path)!r}"
    state, prefix = keys_fitting(read_state(path), model.state_dict(), what)
    state = as_built(state, model)
    facts: Any = getattr(model, "pretrained_cfg", {})
    classifiers = facts.get("classifier") or ()
    classifiers = (classifiers,) if isinstance(classifiers, str) else tuple(classifiers)
    state = {k: v for k, v in state.items() if not any(k.startswith(f"{c}.") for c in classifiers)}
    fit_strict(model, state, f"{what}{f', read without the prefix {prefix!r},' if prefix else ''}", name)


def fit_strict(model: torch.nn.Module, state: dict[str, torch.Tensor], what: str, name: str) -> None:
    """Load tensors into ``model``; every name and shape must fit, and every number must be finite."""
    own = model.state_dict()
    missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        prefix = other_prefix(extra, missing)
        hint = f" Its keys have the prefix {prefix!r}; only {', '.join(WRAPPERS)} are removed." if prefix else ""
        raise ValueError(
            f"{what} does not fit encoder={name!r}: {len(missing)} keys missing {missing[:3]}, {len(extra)} keys too "
            f"many {extra[:3]}, {len(shapes)} of other shape {shapes[:3]}.{hint} Is the file of another architecture?"
        )
    if odd := [k for k in own if state[k].is_floating_point() != own[k].is_floating_point()]:
        raise ValueError(
            f"{what} does not fit encoder={name!r}: {odd[0]!r} holds {state[odd[0]].dtype}, expected "
            f"{own[odd[0]].dtype}. Quantised weights are not read; pass those of full precision."
        )
    model.load_state_dict(state)
    check_finite(model.state_dict(), what)
