"""Changes of H&E patches that leave what they show the same: symmetries of the square, and how strongly they are stained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001), made unit vectors below.
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
#: The darkest 8-bit value above 0: denser is not told apart.
DARKEST = 1 / 255
#: Bits of a symmetry, applied in this order: transpose, mirror top and bottom, mirror left and right.
TRANSPOSE, Y, X = 4, 2, 1
#: Symmetries by (flips, rotations): all of the square, both mirrorings, quarter turns, none.
SYMMETRIES = {
    (True, True): tuple(range(8)),
    (True, False): (0, X, Y, Y | X),
    (False, True): (0, TRANSPOSE | Y, Y | X, TRANSPOSE | X),
    (False, False): (0,),
}


@dataclass(frozen=True)
class Augment:
    """What may happen to a patch.

    Attributes
    ----------
    flips
        Mirror it left and right, top and bottom.
    rotations
        Turn it by quarters; together with ``flips`` each of the 8 symmetries of the square is as likely.
    stain
        Strength s of the jitter of stains: the density c of each stain of a patch becomes ``c * (1 + a) + b`` with a and b uniform
        in [-s, s], in optical density to base e, where a nucleus has about 1. 0: none.
    """

    flips: bool = True
    rotations: bool = True
    stain: float = 0.05

    def __post_init__(self) -> None:
        if not 0 <= self.stain < 1:
            raise ValueError(f"stain={self.stain!r}: expected a number in [0, 1).")


def augment(x: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Turn, mirror and stain anew every patch of a batch.

    Parameters
    ----------
    x
        ``(n, 3, h, w)``, red, green and blue in [0, 1], on any device; left as it is. Rotations need squares.
    settings
        What may happen.
    generator
        On the CPU. What happens to a patch depends on the state of the generator and the patch's place in the batch, not on the
        size of the batch, nor on the device.

    Returns
    -------
    As ``x``, in [0, 1]; ``x`` itself if there is nothing to do.
    """
    if x.ndim != 4 or x.shape[1] != 3 or (settings.rotations and x.shape[2] != x.shape[3]):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (n, 3, h, w){', h = w' if settings.rotations else ''}."
        )
    symmetries = SYMMETRIES[settings.flips, settings.rotations]
    if len(symmetries) == 1 and settings.stain == 0:
        return x
    drawn = torch.rand(len(x), 7, generator=generator, dtype=torch.float32)  # a row per patch, always of this length
    if len(symmetries) > 1:
        x = _moved(x, torch.tensor(symmetries)[(drawn[:, 0] * len(symmetries)).long()])
    if settings.stain > 0:
        x = _stained(x, settings.stain * (2 * drawn[:, 1:].view(-1, 2, 3) - 1))
    return x


def _moved(x: Tensor, symmetry: Tensor) -> Tensor:
    """Apply to every patch its symmetry."""
    out = torch.empty_like(x)
    for bits in symmetry.unique().tolist():
        rows = torch.nonzero(symmetry == bits).squeeze(1).to(x.device)
        some = x[rows].mT if bits & TRANSPOSE else x[rows]
        out[rows] = some.flip([dim for bit, dim in ((Y, 2), (X, 3)) if bits & bit])
    return out


def _stained(x: Tensor, change: Tensor) -> Tensor:
    """Scale and shift the density of every stain; ``change`` is ``(n, 2, 3)``: factors less 1, and terms.

    Densities are linear in the logarithm of light, so that the change of light is a factor: black stays black, and no change is none.
    """
    stains = torch.tensor(STAINS, dtype=torch.float64)
    stains /= stains.norm(dim=1, keepdim=True)
    factors, terms = change.double().unbind(1)
    matrix = stains.T @ (factors.unsqueeze(2) * torch.linalg.inv(stains.T))  # (n, 3, 3): density to its change
    shift = terms @ stains
    matrix, shift = matrix.to(x.device, torch.float32), shift.to(x.device, torch.float32).unsqueeze(2)
    light = x.flatten(2).float()
    density = light.clamp_min(DARKEST).log_().neg_()
    change_of_light = torch.baddbmm(shift, matrix, density).neg_().exp_()
    return change_of_light.mul_(light).clamp_(0, 1).view(x.shape).to(x.dtype)
