"""Patches of many samples as one source that training reads from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from os import PathLike
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from spade._samples.encode import placed_sections
from spade._samples.patches import patch_record
from spade._samples.sample import Sample
from spade.core.arrays import Rows
from spade.core.checks import check_path
from spade.core.distributed.ranks import ALONE, Ranks
from spade.core.files import digest
from spade.core.patches.sources import LivePatches, MappedPatches, SectionPatches, write_patches
from spade.models import SealConfig, SpadeConfig
from spade.tl._training.data import SampleImages

#: Patches that are compared to tell one cache from another.
PATCHES_COMPARED = 64


class PatchReader:
    """Finds the patches of sample after sample.

    Parameters
    ----------
    patches_key
        What :func:`spade.pp.patches` wrote.
    n_px
        Side of the patches that are read, in pixels.
    cache_dir
        Folder in which the patches are kept, in one file that is mapped into memory. None: they are read from the
        images when needed.
    ranks
        Processes of one training, of which the first writes the file.
    """

    def __init__(
        self,
        patches_key: str,
        n_px: int,
        *,
        cache_dir: str | PathLike[str] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.patches_key, self.n_px, self.ranks = patches_key, n_px, ranks
        self.cache_dir = None if cache_dir is None else check_path("cache_dir", cache_dir)

    def read(self, sample: Sample, config: SpadeConfig | SealConfig) -> SampleImages:
        """Find the patches of a sample; those of all samples must have one size."""
        size_um = float(patch_record(sample, self.patches_key)["size_um"])
        if config.patch_um is not None and abs(config.patch_um - size_um) > 1e-6:
            raise ValueError(
                f"{sample.name}: patches of {size_um:g} µm, but those of samples before it are of {config.patch_um:g} "
                "µm. Run sp.pp.patches with one size_um= for all."
            )
        sections = placed_sections(sample, self.patches_key)
        valid = np.zeros(sample.table.n_obs, dtype=bool)
        for rows, _ in sections:
            valid[rows] = True

        def take(wanted: Rows) -> tuple[list[SectionPatches], Rows]:
            chosen = [(rows, placed, np.isin(rows, wanted)) for rows, placed in sections]
            patches = [replace(placed, centres=placed.centres[among]) for _, placed, among in chosen]
            return patches, np.concatenate([wanted[:0], *(rows[among] for rows, _, among in chosen)])

        return SampleImages(valid, {"patch_um": size_um, "patch_px": self.n_px}, take)

    def join(self, parts: list[list[SectionPatches]]) -> tuple[LivePatches | MappedPatches, Callable[[], str]]:
        """Return all patches, and what computes their digest; a cache of the same patches is used again."""
        sections = [placed for part in parts for placed in part]
        live = LivePatches(sections, self.n_px)
        compared = np.unique(np.linspace(0, len(live) - 1, min(PATCHES_COMPARED, len(live))).astype(np.int64))
        places = [np.append(placed.centres.ravel(), placed.px_per_patch) for placed in sections]
        identity = digest(np.array([self.n_px]), *places, live.take(compared))
        if self.cache_dir is None:
            return live, lambda: identity
        path = self.cache_dir / f"patches_{identity}.npy"
        self.ranks.first(lambda: bool(_cache(live, path)))
        return _cache(live, path), lambda: identity


def _cache(live: LivePatches, path: Path) -> MappedPatches:
    """Write the patches into a file, unless it is there, and map it."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tqdm(total=len(live), desc="caching patches", unit="patch") as bar:
            return write_patches(path, live, lambda n: bar.update(n) and None)
    patches = MappedPatches(path)
    if (len(patches), patches.n_px) != (len(live), live.n_px):
        raise ValueError(
            f"{path} holds {len(patches)} patches of {patches.n_px} pixels, not {len(live)} of {live.n_px}; was it "
            "edited? Delete it."
        )
    return patches
