"""Patches of many samples as one source that training reads from."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.encode import placed_sections
from spade._samples.patches import patch_record
from spade._samples.sample import Sample
from spade.core.distributed.ranks import Ranks
from spade.core.files import digest
from spade.core.patches.sources import LivePatches, MappedPatches, SectionPatches, write_patches

#: Patches that are looked at to tell a cache from others.
PATCHES_COMPARED = 64


class PatchReader:
    """Patches of samples that come one after another, put together.

    Parameters
    ----------
    patches_key
        What :func:`spade.pp.patches` wrote.
    n_px
        Side of the patches that are read, in pixels.
    cache_dir
        Folder to keep them in, in one file that is mapped into memory; None: they are read from the images when needed.
    group
        Processes of one training, of which the first makes the file.
    """

    def __init__(
        self,
        patches_key: str,
        n_px: int,
        cache_dir: str | PathLike[str] | None = None,
        group: Ranks | None = None,
    ) -> None:
        self.patches_key, self.n_px, self.cache_dir, self.group = patches_key, n_px, cache_dir, group
        self.id = ""
        self.parts: list[SectionPatches] = []
        self.sample: list[tuple[NDArray[np.int64], SectionPatches]] = []

    def read(self, sample: Sample, config: Any) -> tuple[NDArray[np.bool_], Any]:
        """Find the patches of a sample; return which rows have a valid one, and the settings with their size."""
        size_um = float(patch_record(sample, self.patches_key)["size_um"])
        if config.patch_um is not None and abs(config.patch_um - size_um) > 1e-6:
            raise ValueError(
                f"{sample.name}: patches of {size_um:g} µm, but those of samples before it are of {config.patch_um:g} µm. Run "
                "sp.pp.patches with one size_um= for all."
            )
        self.sample = placed_sections(sample, self.patches_key)
        valid = np.zeros(sample.table.n_obs, dtype=bool)
        for rows, _ in self.sample:
            valid[rows] = True
        return valid, replace(config, patch_um=size_um, patch_px=self.n_px)

    def keep(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Keep some rows of the sample that was read last; return them in the order they are kept in: section by section."""
        order = []
        for own, placed in self.sample:
            kept = np.isin(own, rows)
            self.parts.append(replace(placed, centres=placed.centres[kept]))
            order.append(own[kept])
        return np.concatenate(order) if order else rows

    def joined(self) -> LivePatches | MappedPatches:
        """All patches that were kept; a cache of the same patches is used again."""
        live = LivePatches(self.parts, self.n_px)
        self.id = self._identity(live)
        if self.cache_dir is None:
            return live
        path = Path(self.cache_dir) / f"patches_{self.id}.npy"
        if self.group is not None:
            self.group.first(lambda: bool(_cache(live, path)))
        return _cache(live, path)

    def _identity(self, live: LivePatches) -> str:
        """What tells these patches from others: where they lie, and what a few of them show."""
        some = np.unique(np.linspace(0, len(live) - 1, min(PATCHES_COMPARED, len(live))).astype(np.int64))
        places = [np.append(placed.centres.ravel(), placed.px_per_patch) for placed in self.parts]
        return digest(np.array([self.n_px]), *places, live.take(some))


def _cache(live: LivePatches, path: Path) -> MappedPatches:
    """Write the patches into a file, unless it is there, and map it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(live), desc="caching patches", unit="patch") as bar:

            def progress(n: int) -> None:
                bar.update(n)

            return write_patches(path, live, progress)
    patches = MappedPatches(path)
    if (len(patches), patches.n_px) != (len(live), live.n_px):
        raise ValueError(
            f"{path} holds {len(patches)} patches of {patches.n_px} pixels, not {len(live)} of {live.n_px}; was it edited? Delete it."
        )
    return patches
