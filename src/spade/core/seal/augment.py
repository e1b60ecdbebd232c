"""Augmentation of H&E patches that keeps their content: symmetries of the square, and jitter of the stains."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from spade.core.checks import check_share

#: Optical density of haematoxylin, eosin and DAB in red, green and blue (Ruifrok & Johnston 2001), not yet normalised.
STAINS = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
#: The darkest 8-bit value above 0, and the least light whose density is computed.
MIN_LIGHT = 1 / 255
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
    """Settings of the augmentation.

    Attributes
    ----------
    flips
        Whether patches are mirrored, left and right, top and bottom.
    rotations
        Whether patches are turned by quarters. Together with ``flips`` the 8 symmetries of the square are equally
        likely.
    stain
        Strength s of the jitter of stains: the density c of each stain in a patch becomes ``c * (1 + a) + b`` with a
        and b uniform in [-s, s]. Densities are optical densities to base e; that of a nucleus is about 1. 0 turns the
        jitter off.
    """

    flips: bool = True
    rotations: bool = True
    stain: float = 0.05

    def __post_init__(self) -> None:
        check_share("stain", self.stain, "[0, 1)")


def augment(x: Tensor, settings: Augment, generator: torch.Generator) -> Tensor:
    """Turn and mirror every patch of a batch, and change its stains.

    Parameters
    ----------
    x
        Patches ``(n, 3, h, w)``, red, green and blue in [0, 1], on any device; not changed in place. Rotations need
        square patches.
    settings
        Settings of the augmentation.
    generator
        CPU generator. The change of a patch depends on the state of the generator and the position of the patch in the
        batch, not on the size of the batch or the device.

    Returns
    -------
    Patches ``(n, 3, h, w)`` in [0, 1]; ``x`` itself if the settings turn everything off.
    """
    if x.ndim != 4 or x.shape[1] != 3 or (settings.rotations and x.shape[2] != x.shape[3]):
        raise ValueError(
            f"x has shape {tuple(x.shape)}; expected (n, 3, h, w){' with h = w' if settings.rotations else ''}."
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
    """Return every patch with its symmetry applied."""
    out = torch.empty_like(x)
    for bits in symmetry.unique().tolist():
        rows = torch.nonzero(symmetry == bits).squeeze(1).to(x.device)
        patches = x[rows].mT if bits & TRANSPOSE else x[rows]
        out[rows] = patches.flip([dim for bit, dim in ((Y, 2), (X, 3)) if bits & bit])
    return out


def _stained(x: Tensor, change: Tensor) -> Tensor:
    """Scale and shift the density of every stain; ``change`` ``(n, 2, 3)`` holds factors minus 1, and terms.

    Densities are linear in the logarithm of light, so light changes by a factor: black stays black, and a change of 0
    keeps the patch exactly.
    """
    stains = torch.tensor(STAINS, dtype=torch.float64)
    stains /= stains.norm(dim=1, keepdim=True)
    factors, terms = change.double().unbind(1)
    matrix = stains.T @ (factors.unsqueeze(2) * torch.linalg.inv(stains.T))  # (n, 3, 3): density to its change
    shift = terms @ stains
    matrix, shift = matrix.to(x.device, torch.float32), shift.to(x.device, torch.float32).unsqueeze(2)
    light = x.flatten(2).float()
    density = light.clamp_min(MIN_LIGHT).log_().neg_()
    change_of_light = torch.baddbmm(shift, matrix, density).neg_().exp_()
    return change_of_light.mul_(light).clamp_(0, 1).view(x.shape).to(x.dtype)
