"""The patches of a sample: where their pixels lie, and how they are encoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade._samples.images import image_levels, visible
from spade._samples.patches import patch_record, placed_patches
from spade._samples.sample import Sample
from spade.core.errors import warn
from spade.core.patches.sources import SectionPatches
from spade.core.patches.tiles import iter_patches
from spade.encoders import Encoder
from spade.encoders._output import check_encoder, encode_batch

#: Default number of patches that are encoded at a time.
BATCH = 64
#: What is recorded about the origin of features.
ORIGIN = ("encoder", "encoder_id", "patches_key", "size_um", "input_px")


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
    check_encoder(encoder)
    record = patch_record(sample, patches_key)
    size_um = record["size_um"]
    n_px = encoder.input_px or record["size_px"]
    features = np.full((sample.table.n_obs, encoder.dim), np.nan, dtype=np.float32)
    for section in sample.sections:
        if section.region not in record["regions"]:
            warn(
                f"{section.name} has no patches, so its {len(section.rows)} spots get NaN features. Make them with "
                "sp.pp.patches(samples)."
            )
    sections = placed_sections(sample, patches_key)
    missing = sample.table.n_obs - sum(len(rows) for rows, _ in sections)
    with tqdm(total=sample.table.n_obs, initial=missing, desc=f"{encoder.name}: {sample.name}", unit="patch") as bar:
        for rows, placed in sections:
            for index, batch in iter_patches(placed.levels, placed.centres, placed.px_per_patch, n_px, batch_size):
                features[rows[index]] = encode_batch(encoder, batch, size_um / n_px)
                bar.update(len(index))
    return features, dict(zip(ORIGIN, (encoder.name, encoder.id, patches_key, size_um, n_px), strict=True))
