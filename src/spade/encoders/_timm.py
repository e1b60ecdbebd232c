"""Any timm model as a frozen patch encoder."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from spade.core.checks import brief, check_choice, check_path
from spade.core.device import PRECISIONS, resolve_device, send
from spade.core.errors import warn
from spade.core.files import digest
from spade.core.rng import as_seed, seed_torch, torch_stream
from spade.core.vision.towers import PixelTower, pooled
from spade.encoders._output import check_features
from spade.encoders._spec import EncoderSpec
from spade.io._state_dict import WRAPPERS, check_finite, keys_fitting, other_prefix, read_state, reason

if TYPE_CHECKING:
    import torch

    Weights: TypeAlias = str | PathLike[str] | Mapping[str, torch.Tensor] | None

#: Hex digits of the id of weights.
ID_DIGITS = 12


class TimmEncoder:
    """A timm model in evaluation mode with its own input size, mean and deviation.

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

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        weights: Weights = None,
        device: str = "auto",
        precision: str = "fp32",
        rng: int | np.random.Generator = 0,
    ) -> None:
        import torch

        check_choice("precision", precision, PRECISIONS)
        self.name = spec.name
        self.spec = spec
        self.mpp = spec.mpp
        self.device = resolve_device(device)
        self.precision = precision
        self.model: Any = _build(spec, weights, rng)
        self.id = _identity(self.model)
        self.input_px, *self.moments = input_of(spec, self.model)
        self._mean, self._std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in self.moments)
        self.model.to(self.device)
        black = np.zeros((1, self.input_px, self.input_px, 3), dtype=np.uint8)
        self.dim = check_features(self, self.encode(black, 0.5), 1).shape[1]
        if spec.dim and self.dim != spec.dim:
            raise ValueError(f"encoder={spec.name!r} gives {self.dim} features, but is known to give {spec.dim}.")

    def to(self, device: str) -> TimmEncoder:
        """Move the encoder to a device, and return it."""
        self.device = resolve_device(device)
        self.model.to(self.device)
        self._mean, self._std = self._mean.to(self.device), self._std.to(self.device)
        return self

    def tower(self) -> PixelTower:
        """Return the network with its normalisation, for further training."""
        mean, deviation = self.moments
        return PixelTower(self.model, mean, deviation, self.spec.pool)

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode uint8 ``(n, input_px, input_px, 3)`` patches; ``mpp`` does not change a network's input."""
        import torch

        if patches.dtype != np.uint8 or patches.shape[1:] != (self.input_px, self.input_px, 3):
            raise ValueError(
                f"patches are {patches.dtype} of shape {patches.shape}; encoder {self.name!r} reads uint8 RGB values "
                f"from 0 to 255 of shape (n, {self.input_px}, {self.input_px}, 3)."
            )
        x = send(patches, self.device).permute(0, 3, 1, 2).contiguous()
        with torch.inference_mode(), torch.autocast(x.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            x = (x.float() - self._mean) / self._std
            out = pooled(self.model, x, self.spec.pool)
        features: NDArray[np.float32] = out.float().cpu().numpy()
        return features


def input_of(spec: EncoderSpec, model: torch.nn.Module) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Return side, mean and deviation of the input: those of the encoder's facts, else those of the architecture."""
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(model)
    return spec.input_px or int(data["input_size"][-1]), spec.mean or data["mean"], spec.std or data["std"]


def _build(spec: EncoderSpec, weights: Weights, rng: int | np.random.Generator) -> torch.nn.Module:
    kwargs = {"num_classes": 0, **spec.kwargs()}
    if weights is None:
        try:
            model = _created(spec.model or spec.name, pretrained=True, **kwargs)
        except (OSError, RuntimeError, ValueError) as error:  # every failure of the hub client is one of these
            access = f"Request access on the model's page (licence: {spec.licence}) and log in, or download"
            raise RuntimeError(
                f"encoder={spec.name!r}: the published weights of {spec.model!r} could not be downloaded "
                f"({reason(error)}). {access if spec.gated else 'Download'} the file elsewhere and pass "
                "weights='path/to/model.safetensors'. weights='random' gives untrained weights."
            ) from error
        check_finite(model.state_dict(), f"the published weights of {spec.model or spec.name!r}")
        return model
    if not isinstance(weights, (str, PathLike, Mapping)):
        raise ValueError(f"weights={brief(weights)}: expected None, 'random' or the path of a file.")
    architecture = _architecture(spec)
    if isinstance(weights, Mapping):
        model = _created(architecture, **kwargs)
        fit_strict(model, dict(weights), "weights", spec.name)
        return model
    if weights != "random":
        model = _created(architecture, **kwargs)
        load_strict(model, check_path("weights", weights), spec.name)
        return model
    warn(f"encoder={spec.name!r} has random weights: its features mean nothing until it is trained.")
    return _created(architecture, seed=torch_stream(as_seed(rng), "encoder weights").initial_seed(), **kwargs)


def _created(name: str, *, seed: int = 0, pretrained: bool = False, **kwargs: Any) -> torch.nn.Module:
    """Build a network whose initial weights come from the seed, not from torch's own state."""
    import timm
    import torch

    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        model: torch.nn.Module = timm.create_model(name, pretrained=pretrained, **kwargs).eval()
    return model


def _architecture(spec: EncoderSpec) -> str:
    if not spec.architecture:
        raise ValueError(
            f"encoder={spec.name!r}: a hub id names weights, not an architecture. With weights=, give the timm "
            "architecture as encoder=, such as 'vit_small_patch16_224'."
        )
    return spec.architecture


def load_strict(model: torch.nn.Module, path: Path, name: str) -> None:
    """Load a ``.safetensors`` or torch file into ``model``; every key must fit, and nothing in the file is executed.

    What stands around the state dict, or before its keys, is removed as :func:`~spade.io._state_dict.read_state` and
    :func:`~spade.io._state_dict.keys_fitting` say. The classifier of the architecture is left out.
    """
    what = f"weights={str(path)!r}"
    state, prefix = keys_fitting(read_state(path), model.state_dict(), what)
    facts: Any = model.pretrained_cfg
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


def _identity(model: torch.nn.Module) -> str:
    """First 12 hex digits of the SHA-256 of all weights: the same network whatever file it came from."""
    import torch

    parts: list[str | memoryview] = []
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten()
        parts += [f"{name}{tuple(value.shape)}", flat.view(torch.uint8).numpy().data]
    return digest(*parts)[:ID_DIGITS]
