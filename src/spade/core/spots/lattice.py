"""The lattice of spots: its pitch, the reach of neighbours, and whether it is a Visium lattice."""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

#: Largest relative error of a pitch.
TOLERANCE = 0.05
VISIUM_PITCH_UM = 100.0
#: Spot diameter over pitch. Visium spots measure 55 µm; the diameter that Space Ranger writes is 65 µm.
VISIUM_RATIOS = (0.55, 0.65)


def spot_pitch(centres: np.ndarray) -> float:
    """Return the distance between neighbouring spots of a lattice, NaN for fewer than two spots.

    It is the median over all pairs up to 1.3 times the median nearest distance. The nearest distance alone is too short
    if positions scatter around the lattice.
    """
    if len(centres) < 2:
        return float("nan")
    tree = KDTree(centres)
    nearest = float(np.median(tree.query(centres, k=2)[0][:, 1]))
    pairs = tree.query_pairs(1.3 * nearest, output_type="ndarray")
    return float(np.median(np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1)))


def lattice_reach(centres: np.ndarray) -> float:
    """Return the distance within which the neighbours of a spot lie; NaN if the spots form no known lattice.

    A spot has 6 neighbours on a hexagonal lattice and 8 on a square one. The second smallest distance, √2 or √3 of the
    pitch, identifies the lattice; the reach lies midway between the last neighbours and the next spots. Spots may be
    missing, and distances may be off by a fifth of the pitch, as they are in classic ST.
    """
    pitch = spot_pitch(centres)
    if not pitch > 0:
        return float("nan")
    pairs = KDTree(centres).query_pairs(1.8 * pitch, output_type="ndarray")
    distance = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1) / pitch
    first = np.abs(distance - 1) < 0.2
    for second, reach in ((np.sqrt(2), (np.sqrt(2) + 2) / 2), (np.sqrt(3), (1 + np.sqrt(3)) / 2)):
        at_second = np.abs(distance - second) < 0.2
        if at_second.any() and np.mean(first | at_second) > 0.9:
            return float(reach * pitch)
    return float("nan")


def visium_mpp(centres: np.ndarray, radii: np.ndarray, array: np.ndarray | None = None) -> float | None:
    """Return the microns per pixel if spots (in pixels) form a Visium lattice, else None.

    Two signs identify Visium. The ratio of spot diameter to pitch is 0.55, or 0.65 as Space Ranger writes it, within
    5 %. The lattice is hexagonal: the spots fit their array positions or, if these are unknown, all distances below 1.9
    times the pitch are 1 or √3 times the pitch.

    Parameters
    ----------
    centres
        Spots ``(n, 2)`` as (x, y).
    radii
        Their radii ``(n,)``.
    array
        Row and column of each spot ``(n, 2)`` in Space Ranger's numbering, if known.
    """
    pitch = float("nan") if array is None else array_pitch(centres, array)
    if not np.isfinite(pitch):
        pitch = _hexagonal_pitch(centres)
    if not pitch > 0:
        return None
    ratio = 2 * float(np.median(radii)) / pitch
    if not any(abs(ratio / expected - 1) <= TOLERANCE for expected in VISIUM_RATIOS):
        return None
    return VISIUM_PITCH_UM / pitch


def array_pitch(centres: np.ndarray, array: np.ndarray) -> float:
    """Return the pitch from array positions (columns are 1/2 pitch apart, rows √3/2); NaN if the spots do not fit."""
    grid = np.column_stack([array * [np.sqrt(3) / 2, 0.5], np.ones(len(array))])
    if not np.isfinite(grid).all() or len(grid) < 6 or np.linalg.matrix_rank(grid) < 3:
        return float("nan")
    fit = np.linalg.lstsq(grid, centres, rcond=None)[0]
    long, short = np.linalg.svd(fit[:2], compute_uv=False)
    off = np.linalg.norm(grid @ fit - centres, axis=1).max()
    return float(long) if long <= (1 + TOLERANCE) * short and off <= TOLERANCE * long else float("nan")


def _hexagonal_pitch(centres: np.ndarray) -> float:
    """Return the pitch of a hexagonal lattice, NaN if the spots form another."""
    pitch = spot_pitch(centres)
    if not pitch > 0:
        return float("nan")
    pairs = KDTree(centres).query_pairs(1.9 * pitch, output_type="ndarray")
    distance = np.linalg.norm(centres[pairs[:, 0]] - centres[pairs[:, 1]], axis=1) / pitch
    first, second = (np.abs(distance - expected) < TOLERANCE * expected for expected in (1, np.sqrt(3)))
    return pitch if second.any() and np.mean(first | second) > 0.9 else float("nan")


def check_pitch(pitch_px: float, mpp: float, pitch_um: float, what: str) -> None:
    """Raise if the measured pitch of spots differs from the stated one by more than 5 %."""
    measured = pitch_px * mpp
    if np.isfinite(measured) and abs(measured / pitch_um - 1) > TOLERANCE:
        raise ValueError(
            f"{what}: at {mpp:.4g} µm/px neighbouring spots are {measured:.1f} µm apart, but the platform states "
            f"{pitch_um:g} µm. Check mpp= (it is microns per pixel of the image at its finest level; "
            f"{pitch_um / pitch_px:.4g} would fit) or the coordinates."
        )


def check_spots(centres: np.ndarray, mpp: float, pitch_um: float, what: str) -> None:
    """Raise if the pitch of spots is not the stated one.

    In a selection of spots few have a neighbour, so it is enough that these neighbours are one pitch apart.
    """
    pitch_px = spot_pitch(centres)
    if pitch_px * mpp > pitch_um * (1 + TOLERANCE):
        nearest = KDTree(centres).query(centres, k=2)[0][:, 1] * mpp / pitch_um
        if np.mean(np.abs(nearest - 1) <= TOLERANCE) >= 0.05 and np.mean(nearest < 1 - TOLERANCE) < 0.01:
            return
    check_pitch(pitch_px, mpp, pitch_um, what)
