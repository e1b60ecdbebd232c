"""A network that encodes patches, frozen and in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from spade.core.checks import check_choice
from spade.core.device import PRECISIONS, resolve_device, send
from spade.core.files import digest
from spade.encoders._output import check_features
from spade.encoders._spec import Encoder, described

if TYPE_CHECKING:
    import torch

    from spade.core.vision.towers import PixelTower

Network = TypeVar("Network", bound="NetworkEncoder")
#: Hex digits of the id of weights.
ID_DIGITS = 12
#: Side of the patch that an encoder for patches of any size is tried on.
ANY_PX = 224


class NetworkEncoder:
    """A network in evaluation mode, with the side, mean and deviation of its input.

    Parameters
    ----------
    model
        Encodes a normalised ``(n, 3, input_px, input_px)`` as ``(n, dim)``.
    name
        Name, from which the key of its features is made.
    input_px
        Side of the patches that it gets, in pixels; None: any.
    moments
        Mean and deviation of every channel, for values from 0 to 1.
    transform
        In place of ``moments``: a function from a PIL image to a tensor ``(3, h, w)``, for each patch.
    mpp
        µm/px of the patches it is meant for; None if not stated.
    pool
        How tokens become features, as in :class:`~spade.core.vision.towers.PixelTower`.
    device, precision
        Where and in which precision it runs (``"fp32"`` or ``"bf16"``).
    """

    def __init__(
        self,
        model: torch.nn.Module,
        *,
        name: str,
        input_px: int | None,
        moments: Sequence[Sequence[float]] = ((0, 0, 0), (1, 1, 1)),
        transform: Callable[[Any], Any] | None = None,
        mpp: float | None = None,
        pool: str = "model",
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        import torch

        self.precision = check_choice("precision", precision, PRECISIONS)
        self.name, self.input_px, self.mpp, self.pool = name, input_px, mpp, pool
        self.device = resolve_device(device)
        self.model: Any = model
        self.moments, self.transform = list(moments), transform
        self.id = self._identity()
        self._mean, self._std = (torch.tensor(v, device=self.device).view(1, 3, 1, 1) * 255 for v in self.moments)
        self.model.to(self.device)
        self.dim = check_features(self, self._probe(), 1).shape[1]

    def __repr__(self) -> str:
        return f"{type(self).__name__}: {described(self)}"

    def to(self: Network, device: str) -> Network:
        """Move the encoder to a device, and return it."""
        self.device = resolve_device(device)
        self.model.to(self.device)
        self._mean, self._std = self._mean.to(self.device), self._std.to(self.device)
        return self

    def tower(self) -> PixelTower:
        """Return the network with its normalisation, for further training."""
        from spade.core.vision.towers import PixelTower

        mean, deviation = self.moments
        return PixelTower(self.model, mean, deviation, self.pool)

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode uint8 ``(n, input_px, input_px, 3)`` patches; ``mpp`` does not change a network's input."""
        import torch

        from spade.core.vision.towers import pooled

        check_patches(self, patches)
        half = torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.precision == "bf16")
        with torch.inference_mode(), half:
            return as_float32(pooled(self.model, self._input(patches), self.pool))

    def _input(self, patches: NDArray[np.uint8]) -> torch.Tensor:
        """Return the input of the network for some patches."""
        import torch

        if self.transform is None:
            x = send(patches, self.device).permute(0, 3, 1, 2).contiguous()
            return (x.float() - self._mean) / self._std
        from PIL import Image

        return torch.stack([self.transform(Image.fromarray(patch)) for patch in patches]).to(self.device)

    def _identity(self) -> str:
        """Return the id: that of the weights, since all else comes with the name of the encoder."""
        return identity(self.model)

    def _probe(self) -> Any:
        """Return the features of a black patch."""
        return self.encode(black_patch(self.input_px), 0.5)


def black_patch(input_px: int | None) -> NDArray[np.uint8]:
    """Return one black patch; 224 px wide if any width will do."""
    return np.zeros((1, input_px or ANY_PX, input_px or ANY_PX, 3), dtype=np.uint8)


def check_patches(encoder: Encoder, patches: NDArray[np.uint8]) -> None:
    """Raise unless patches are what an encoder reads."""
    side = encoder.input_px or (patches.shape[1] if patches.ndim == 4 else ANY_PX)
    if patches.dtype != np.uint8 or patches.shape[1:] != (side, side, 3):
        raise ValueError(
            f"patches are {patches.dtype} of shape {patches.shape}; encoder {encoder.name!r} reads uint8 RGB values "
            f"from 0 to 255 of shape (n, {side}, {side}, 3)."
        )


def as_float32(out: Any) -> Any:
    """Return what a network returned as a float32 array, if it is a tensor."""
    return out.detach().float().cpu().numpy() if hasattr(out, "detach") and out.is_floating_point() else out


def identity(model: torch.nn.Module) -> str:
    """First 12 hex digits of the SHA-256 of all weights: the same network whatever file it came from."""
    import torch

    parts: list[str | memoryview] = []
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().cpu().contiguous().flatten()
        parts += [f"{name}{tuple(value.shape)}", flat.view(torch.uint8).numpy().data]
    return digest(*parts)[:ID_DIGITS]
