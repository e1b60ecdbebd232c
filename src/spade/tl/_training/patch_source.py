"""Patches of many samples as one source that training reads from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm.auto import tqdm

from spade._samples.encode import check_resolution, placed_sections
from spade._samples.patches import patch_record
from spade._samples.sample import Sample
from spade.core.arrays import Rows
from spade.core.checks import check_path
from spade.core.distributed.ranks import ALONE, Ranks
from spade.core.files import digest
from spade.core.locks import locked
from spade.core.patches.sources import LivePatches, MappedPatches, SectionPatches, digest_patches, write_patches
from spade.models import SealConfig, SpadeConfig
from spade.tl._training.data import SampleImages

if TYPE_CHECKING:
    from spade.encoders._timm import TimmEncoder


class PatchReader:
    """Finds the patches of sample after sample.

    Parameters
    ----------
    patches_key
        What :func:`spade.pp.patches` wrote.
    encoder
        Encoder that is tuned: it says the side of the patches that are read, in pixels, and their resolution.
    cache_dir
        Folder in which the patches are kept, in one file that is mapped into memory. None: they are read from the
        images when needed.
    ranks
        Processes of one training, of which the first writes the file.
    """

    def __init__(
        self,
        patches_key: str,
        encoder: TimmEncoder,
        *,
        cache_dir: str | PathLike[str] | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.patches_key, self.encoder, self.n_px, self.ranks = patches_key, encoder, encoder.input_px, ranks
        self.cache_dir = None if cache_dir is None else check_path("cache_dir", cache_dir)
        self.sections: list[SectionPatches] = []

    def read(self, sample: Sample, config: SpadeConfig | SealConfig) -> SampleImages:
        """Find the patches of a sample; those of all samples must have one size."""
        size_um = float(patch_record(sample, self.patches_key)["size_um"])
        if config.patch_um is not None and abs(config.patch_um - size_um) > 1e-6:
            raise ValueError(
                f"{sample.name}: patches of {size_um:g} µm, but those of samples before it are of {config.patch_um:g} "
                "µm. Run sp.pp.patches with one size_um= for all."
            )
        check_resolution(self.encoder, size_um, self.n_px)
        sections = placed_sections(sample, self.patches_key)
        valid = np.zeros(sample.table.n_obs, dtype=bool)
        for rows, _ in sections:
            valid[rows] = True

        def take(wanted: Rows) -> Rows:
            chosen = [(rows, placed, np.isin(rows, wanted)) for rows, placed in sections]
            self.sections += [replace(placed, centres=placed.centres[among]) for _, placed, among in chosen]
            return np.concatenate([wanted[:0], *(rows[among] for rows, _, among in chosen)])

        return SampleImages(valid, {"patch_um": size_um, "patch_px": self.n_px}, take)

    def joined(self) -> tuple[LivePatches | MappedPatches, Callable[[], str]]:
        """Return all patches, and what computes their digest; a cache of the same patches is used again.

        The digest is that of all pixels, for which every patch is read once: with ``cache_dir`` always, as nothing else
        tells that a file is of these images; else when it is asked for, as to go on from a checkpoint.
        """
        sections = self.sections
        live = LivePatches(sections, self.n_px)
        places = digest(
            np.array([self.n_px]), *(np.append(placed.centres.ravel(), placed.px_per_patch) for placed in sections)
        )
        if self.cache_dir is None:
            return live, cache(lambda: f"{places} {_digest(live, live.order, 'reading patches')}")
        folder = self.cache_dir
        pixels = self.ranks.first(lambda: _write_cache(live, folder, places))
        return MappedPatches(_file(folder, places, pixels)), lambda: f"{places} {pixels}"


def _file(folder: Path, places: str, pixels: str) -> Path:
    """Return the file of patches that lie at these places and have these pixels."""
    return folder / f"patches_{places}_{pixels}.npy"


def _write_cache(live: LivePatches, folder: Path, places: str) -> str:
    """Make sure that a file holds these patches, pixel by pixel; return the digest of their pixels.

    A file of them that is there is read once, as are the images; a file that is not what its name says is an error.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f".patches_{places}.lock"):
        pixels = _digest(live, live.order, "reading patches")
        path = _file(folder, places, pixels)
        if not path.exists():
            with tqdm(total=len(live), desc="caching patches", unit="patch") as bar:
                write_patches(path, live, lambda n: bar.update(n) and None)
        patches = MappedPatches(path)
        if (len(patches), patches.n_px) != (len(live), live.n_px) or _digest(patches, None, "checking cache") != pixels:
            raise ValueError(
                f"{path} does not hold the {len(live)} patches of {live.n_px} pixels that its name says; was it edited "
                "or cut off, or was an image changed meanwhile? Delete it."
            )
    return pixels


def _digest(patches: LivePatches | MappedPatches, order: Rows | None, what: str) -> str:
    with tqdm(total=len(patches), desc=what, unit="patch") as bar:
        return digest_patches(patches, order, lambda n: bar.update(n) and None)
