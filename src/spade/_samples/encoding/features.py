"""Features of one sample, encoded by all devices and ranks: in memory for an object, by way of the disk for a store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spade import _keys
from spade._samples.encode import EncodingPlan, rows_bar
from spade._samples.encoding.devices import encode_on, share
from spade._samples.encoding.pieces import StoredPieces, image_stamp
from spade._samples.patches import patch_record
from spade._samples.sample import Sample
from spade._version import __version__
from spade.core.device import on_gpu
from spade.core.distributed.ranks import Ranks
from spade.core.files import digest
from spade.encoders import Encoder


def stamp(sample: Sample, plan: EncodingPlan, encoder: Encoder, features: NDArray[np.float32]) -> str | None:
    """Return what tells these features of a store from all others; None for an object, whose pixels have no date."""
    if sample.path is None:
        return None
    identity = _identity(plan, encoder) | {"image": _image(sample.path.resolve(), sample, plan)}
    return digest(json.dumps(identity, sort_keys=True), np.asarray(features))


def is_encoded(sample: Sample, plan: EncodingPlan, encoder: Encoder, key: str) -> bool:
    """Return whether the features under a key are those that encoding would give, untouched since."""
    stored = _keys.read_provenance(sample.table.uns, key).get("stamp")
    if stored is None or key not in sample.table.obsm:
        return False
    return stored == stamp(sample, plan, encoder, np.asarray(sample.table.obsm[key]))


def remove_pieces(sample: Sample, plan: EncodingPlan, encoder: Encoder, key: str) -> None:
    """Remove the pieces that a call left which was killed after it had saved the features."""
    if sample.path is not None:
        StoredPieces(sample.path.resolve(), key, plan, encoder.dim).remove()


@contextmanager
def encoded(
    sample: Sample, plan: EncodingPlan, encoders: Sequence[Encoder], key: str, ranks: Ranks
) -> Iterator[NDArray[np.float32] | None]:
    """Encode a sample, and give its features ``(n_obs, d)`` to whoever saves them; NaN where the patch is not valid.

    Of a store, only the first rank gets them, mapped from a file that is removed after the block. If the block is not
    reached or not left in peace, the pieces stay beside the store, and the same call goes on with them.
    """
    identity = _identity(plan, encoders[0])
    ranks.alike(lambda: identity | {"key": key, "sample": sample.name})
    if sample.path is None:
        yield _in_memory(sample, plan, encoders, ranks)
        return
    store = sample.path.resolve()
    stored = StoredPieces(store, key, plan, encoders[0].dim)
    try:
        missing = ranks.first(lambda: stored.claim(identity | {"image": _image(store, sample, plan)}, sample.name))
        mine = share(missing, ranks.rank, ranks.world)
        with rows_bar(plan, mine, encoders[0], sample, shown=ranks.leads) as bar:
            encode_on(encoders, plan, mine, stored.write, bar.update)
        ranks.gather(None)
        yield stored.whole() if ranks.leads else None
    except BaseException:
        if ranks.leads:
            stored.remove_empty()
        raise
    if ranks.leads:
        stored.remove()


def _in_memory(sample: Sample, plan: EncodingPlan, encoders: Sequence[Encoder], ranks: Ranks) -> NDArray[np.float32]:
    """Return the features of an object, which every rank has."""
    mine = share(range(len(plan.pieces)), ranks.rank, ranks.world)
    kept: dict[int, NDArray[np.float32]] = {}
    features = np.full((plan.n_obs, encoders[0].dim), np.nan, dtype=np.float32)

    def keep(piece: int, values: NDArray[np.float32]) -> None:
        features[plan.rows(piece)] = values
        if not ranks.alone:
            kept[piece] = values

    with rows_bar(plan, mine, encoders[0], sample, shown=ranks.leads) as bar:
        encode_on(encoders, plan, mine, keep, bar.update)
    for pieces in ranks.gather(kept):
        for piece, values in pieces.items():
            features[plan.rows(piece)] = values
    return features


def _image(store: Path, sample: Sample, plan: EncodingPlan) -> str:
    """Return what changes when somebody writes an image that a plan reads from a store."""
    record = patch_record(sample, plan.origin["patches_key"])
    return image_stamp(store, sample.pictures, {facts["image"] for facts in record["regions"].values()})


def _identity(plan: EncodingPlan, encoder: Encoder) -> dict[str, object]:
    """Return what tells this encoding from others: the encoder and all that its bytes may depend on."""
    return {
        "version": __version__,
        "encoder": encoder.name,
        "encoder_id": encoder.id,
        "dim": int(encoder.dim),
        "precision": getattr(encoder, "precision", None),
        "device": "cuda" if on_gpu(getattr(encoder, "device", None)) else "cpu",
        "batch_size": plan.batch_size,
        "patches": plan.digest(),
        "colour": plan.origin.get("colour"),
    }
