"""The patches of a sample: where their pixels lie, and how they are encoded."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._said.progress import progress_bar
from spade._samples.images import image_levels, visible
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Sample
from spade._samples.slides.colour import Colour
from spade.core.arrays import Rows
from spade.core.device import pinned
from spade.core.errors import warn
from spade.core.files import digest
from spade.core.patches.ahead import n_cores, read_ahead
from spade.core.patches.sources import SectionPatches
from spade.core.patches.staining import Staining, recoloured
from spade.core.patches.tiles import Pixels, chunk_order, iter_patches, on_level
from spade.encoders import Encoder
from spade.encoders._output import check_encoder, encode_batch

#: Default number of patches that are encoded at a time.
BATCH = 64
#: Batches of a piece: what a thread reads ahead at most, and what an interrupted encoding loses at most.
PIECE = 8
#: Factor between the resolution of patches and that which an encoder is meant for, from which on it is warned of.
OTHER_RESOLUTION = 1.5
#: Most threads that read patches for one encoder.
READERS = 4
#: What is recorded about the origin of features.
ORIGIN = ("encoder", "encoder_id", "patches_key", "size_um", "input_px", "colour", "colour_reference")


def placed_sections(sample: Sample, patches_key: str) -> list[tuple[NDArray[np.int64], SectionPatches]]:
    """Return, for every section that has patches, the rows of the table with a valid patch, and where these lie.

    Sections without patches are skipped: ``patch_record(...)["regions"]`` says which have them.
    """
    record = patch_record(sample, patches_key)
    sections = []
    for section in sample.sections:
        if section.region in record["regions"]:
            placed = placed_patches(sample, section, record)
            levels = image_levels(placed.image)
            shown = visible(levels, placed.centres, placed.inside, placed.side, record["size_px"])
            patches = SectionPatches(levels, placed.centres[shown][:, ::-1], placed.side)
            sections.append((section.rows[shown], patches))
    return sections


@dataclass(frozen=True)
class EncodingPlan:
    """What is read of a sample to encode it, and in which pieces.

    A piece holds whole batches of one section, in the order in which they are read, so that its features are the same
    whichever process encodes it, and whatever was encoded before.

    Attributes
    ----------
    n_obs
        Rows of the table.
    sections
        Rows with a patch, and where these lie, section by section.
    n_px, mpp
        Side of the patches that the encoder gets, and their µm/px.
    batch_size
        Patches per batch.
    origin
        Facts about the origin of the features for :func:`spade._keys.write_provenance`.
    names
        Names of the sections.
    colour
        The colours that the patches get; None: they stay as they are.
    """

    n_obs: int
    sections: list[tuple[Rows, SectionPatches]]
    n_px: int
    mpp: float
    batch_size: int
    origin: dict[str, Any]
    names: list[str]
    colour: Colour | None = None

    @cached_property
    def pieces(self) -> list[tuple[int, Rows]]:
        """Section of every piece, and the places of its patches among those of the section."""
        pieces, step = [], PIECE * self.batch_size
        for number, (_, placed) in enumerate(self.sections):
            level, local, _ = on_level(placed.levels, placed.centres, placed.px_per_patch, self.n_px)
            order = np.lexsort(chunk_order(level, local))
            pieces += [(number, order[start : start + step]) for start in range(0, len(order), step)]
        return pieces

    def rows(self, piece: int) -> Rows:
        """Return the rows of the table that a piece is about."""
        section, places = self.pieces[piece]
        return self.sections[section][0][places]

    @cached_property
    def stainings(self) -> list[Staining | None]:
        """Colours of the slide of every section that has patches, if these get others."""
        side_um = self.n_px * self.mpp
        return [
            self.colour.of_section(name, placed, side_um / placed.px_per_patch) if self.colour and len(rows) else None
            for name, (rows, placed) in zip(self.names, self.sections, strict=True)
        ]

    def read(self, piece: int, device: object = None) -> Iterator[tuple[Rows, Pixels]]:
        """Read the batches of a piece for an encoder on a device: places within the piece, and patches."""
        section, places = self.pieces[piece]
        placed = self.sections[section][1]
        centres, side, staining = placed.centres[places], placed.px_per_patch, self.stainings[section]
        for index, batch in iter_patches(placed.levels, centres, side, self.n_px, self.batch_size):
            if self.colour is not None and staining is not None:
                batch = recoloured(batch, staining, self.colour.target)
            yield index, pinned(batch, device)

    def digest(self) -> str:
        """Return a digest of all that says which pixels are read for which row, and how they are batched."""
        parts: list[NDArray[np.generic] | str] = [f"{self.n_obs} {self.n_px} {self.mpp!r} {self.batch_size} {PIECE}"]
        for rows, placed in self.sections:
            parts += [rows, np.asarray(placed.centres), repr(float(placed.px_per_patch))]
            for level in placed.levels:
                parts += [np.asarray(level.y_edges), np.asarray(level.x_edges), repr(tuple(level.downsample))]
        return digest(*parts)


def plan_encoding(
    sample: Sample, encoder: Encoder, patches_key: str, batch_size: int, colour: Colour | None = None
) -> EncodingPlan:
    """Return how the patches of a sample are encoded; sections without patches are warned about."""
    record = patch_record(sample, patches_key)
    size_um = record["size_um"]
    n_px = encoder.input_px or record["size_px"]
    check_resolution(encoder, size_um, n_px)
    for section in sample.sections:
        if section.region not in record["regions"]:
            warn(
                f"{section.name} has no patches, so its {len(section.rows)} spots get NaN features. Make them with "
                "sp.pp.patches(samples)."
            )
    origin = dict(zip(ORIGIN, (encoder.name, encoder.id, patches_key, size_um, n_px), strict=False))
    if colour is not None:
        origin |= colour.origin
    sections = placed_sections(sample, patches_key)
    names = [section.name for section in sample.sections if section.region in record["regions"]]
    return EncodingPlan(sample.table.n_obs, sections, n_px, size_um / n_px, batch_size, origin, names, colour)


def check_resolution(encoder: Encoder, size_um: float, n_px: int) -> None:
    """Warn if patches have clearly another resolution than an encoder is meant for."""
    if not (meant_for := getattr(encoder, "mpp", None)):
        return
    fitting_um = meant_for * n_px
    factor = fitting_um / size_um
    if max(factor, 1 / factor) >= OTHER_RESOLUTION:
        warn(
            f"encoder={encoder.name!r} is meant for {meant_for:g} µm/px, but patches of {size_um:g} µm at {n_px} px "
            f"have {size_um / n_px:.3g} µm/px: it sees nuclei {factor:.2g} times as large. Patches of {fitting_um:g} "
            f"µm would fit: sp.pp.patches(samples, size_um={fitting_um:g})."
        )


def n_readers(n_encoders: int = 1) -> int:
    """Return the number of threads that read patches for each of some encoders: half of the cores between them.

    The processes that ``torchrun`` started on this machine share its cores.
    """
    n_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, min(READERS, n_cores() // (2 * n_encoders * n_processes)))


def encode_pieces(
    plan: EncodingPlan, encoder: Encoder, pieces: Sequence[int], readers: int, tell: Callable[[int], object]
) -> Generator[tuple[int, NDArray[np.float32]]]:
    """Encode pieces in their order, while the patches of the next batches are read in threads.

    ``tell`` is called with the number of patches after every batch.
    """
    device = getattr(encoder, "device", None)
    _ = plan.stainings  # before threads need them
    with closing(read_ahead([partial(plan.read, piece, device) for piece in pieces], readers, PIECE)) as batches:
        for piece in pieces:
            features = np.empty((len(plan.pieces[piece][1]), encoder.dim), dtype=np.float32)
            done = 0
            while done < len(features):
                index, batch = next(batches)
                features[index] = encode_batch(encoder, batch, plan.mpp)
                done += len(index)
                tell(len(index))
            yield piece, features


def encode_rows(
    sample: Sample, encoder: Encoder, patches_key: str, batch_size: int
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """Encode the patches of a sample batch by batch.

    Returns
    -------
    Features ``(n_obs, d)``, NaN where the patch is not valid; and facts about their origin for
    :func:`spade._keys.write_provenance`.

    Raises
    ------
    TypeError, ValueError
        The encoder lacks something, or returns anything but finite features ``(n, dim)``.
    """
    plan = plan_encoding(sample, check_encoder(encoder), patches_key, batch_size)
    features = np.full((plan.n_obs, encoder.dim), np.nan, dtype=np.float32)
    every = range(len(plan.pieces))
    with rows_bar(plan, every, encoder, sample) as bar:
        with closing(encode_pieces(plan, encoder, every, n_readers(), bar.update)) as encoded:
            for piece, values in encoded:
                features[plan.rows(piece)] = values
    return features, plan.origin


def rows_bar(
    plan: EncodingPlan, pieces: Sequence[int], encoder: Encoder, sample: Sample, *, shown: bool = True
) -> tqdm[Any]:
    """Return a bar over the rows of a sample, at the start of work on some pieces."""
    to_do = sum(len(plan.pieces[piece][1]) for piece in pieces)
    return progress_bar(
        shown=shown,
        total=plan.n_obs,
        initial=plan.n_obs - to_do,
        desc=f"{encoder.name}: {sample.name}",
        unit="patch",
    )
