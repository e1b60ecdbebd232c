"""Frozen image features of patches."""

from __future__ import annotations

import logging
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from spade import _keys, encoders
from spade._samples.encode import BATCH, encode_rows
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import maker, patch_record
from spade._samples.sample import Sample
from spade.core.checks import brief, check_choice, check_count, check_text
from spade.core.device import PRECISIONS
from spade.core.errors import warn
from spade.core.rng import as_seed
from spade.encoders import Encoder
from spade.encoders._output import check_encoder

logger = logging.getLogger("spade")


def encode_patches(
    samples: Samples,
    encoder: str | Encoder = "texture",
    *,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    weights: str | PathLike[str] | None = None,
    batch_size: int = BATCH,
    device: str = "auto",
    precision: str = "fp32",
    rng: int | np.random.Generator = 0,
    key_added: str | None = None,
) -> None:
    """Turn every patch into frozen image features.

    Patches are read in the order of the image's chunks, from the coarsest resolution that is still at least as fine as
    the encoder needs, and encoded batch by batch. Memory is bounded by a batch and the chunk cache, never by the slide.
    Each sample is finished (and, given as a path, saved) before the next is opened.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    encoder
        ``"texture"``: the built-in features that need no weights. Otherwise a name of
        :func:`spade.encoders.available`, any timm architecture, ``"hf-hub:owner/name"``, an encoder from
        :func:`spade.encoders.get`, or a :class:`spade.models.SealModel` that fine-tuned one. A network gets patches of
        its own input size, normalised by its own mean and deviation.
    patches_key
        What :func:`patches` wrote.
    table_key
        Table; may be left out when there is one.
    weights
        None: the published weights. A path to ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``: the weights in this
        file, which is read as data and whose keys are all checked. ``"random"``: untrained, with a warning.
    batch_size
        Patches per batch.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    precision
        ``"fp32"`` or ``"bf16"`` (autocast), for networks.
    rng
        Seed of random weights.
    key_added
        ``obsm`` key; None: ``"X_"`` and the encoder's name.

    Returns
    -------
    None
        Writes ``obsm[key_added]``, float32 ``(n_obs, d)``, NaN where the patch is not valid, and the encoder and
        the id of its weights in ``uns["spade"][key_added]``.

    Raises
    ------
    KeyError
        Patches, image or table that is not there.
    TypeError
        An encoder without ``encode``, ``name``, ``id``, ``dim`` or ``input_px``, or one that returns no real numbers.
    ValueError
        Unknown encoder, weights that do not fit it or hold NaN or infinite values, or an encoder that returns anything
        but finite features ``(n, dim)``. NaN stands for spots without a valid patch and nothing else.
    RuntimeError
        Published weights that cannot be downloaded.

    Examples
    --------
    >>> import spade as sp
    >>> (sdata,) = sp.datasets.toy(1, 30)
    >>> sp.pp.patches(sdata)
    >>> sp.pp.encode_patches(sdata, "texture")
    >>> sdata["table"].obsm["X_texture"].shape[0]
    30
    """
    batch_size = check_count("batch_size", batch_size)
    check_text("device", device)
    check_choice("precision", precision, PRECISIONS)
    seed = as_seed(rng)
    if key_added is not None:
        _keys.check_key(key_added)
    ready = _ready(encoder, weights, device=device, precision=precision, seed=seed)
    key = _keys.features(ready.name) if key_added is None else key_added
    for sample in iter_samples(samples, table_key=table_key, writes=True):
        _encode_sample(sample, ready, patches_key, batch_size, key)


def _ready(
    encoder: object,
    weights: str | PathLike[str] | None,
    *,
    device: str,
    precision: str,
    seed: int,
) -> Encoder:
    """Return an encoder that is ready to run."""
    if weights is not None and (not isinstance(weights, (str, PathLike)) or not str(weights)):
        raise ValueError(f'weights={brief(weights)}: expected a path to a file of weights, "random", or None.')
    if isinstance(encoder, str):
        name = check_text("encoder", encoder)
        return encoders.get(name, weights=weights, device=device, precision=precision, rng=seed)
    ready = check_encoder(encoder)
    if weights is not None:
        raise ValueError(
            f"weights={weights!r}: the encoder already has weights; pass these to sp.encoders.get instead."
        )
    return ready


def _encode_sample(sample: Sample, encoder: Encoder, patches_key: str, batch_size: int, key: str) -> None:
    """Encode one sample and save it."""
    features, origin = encode_rows(sample, encoder, patches_key, batch_size)
    sample.table.obsm[key] = features
    _mark_valid(sample, features, patches_key)
    _keys.write_provenance(sample.table.uns, key, function="pp.encode_patches", **origin)
    sample.save()
    logger.info("%s: wrote obsm[%r], %d × %d", sample.name, key, *features.shape)


def _mark_valid(sample: Sample, features: NDArray[np.float32], patches_key: str) -> None:
    """Mark the patches that were not encoded as not valid, such as those that a crop of the image left outside."""
    if _keys.VALID not in sample.table.obs:
        return
    record = patch_record(sample, patches_key)
    regions = record["regions"]
    rows = np.concatenate([[], *(section.rows for section in sample.sections if section.region in regions)]).astype(int)
    valid = sample.table.obs[_keys.VALID].to_numpy(dtype=bool, copy=True)
    lost = rows[valid[rows] & np.isnan(features[rows]).all(1)]
    if len(lost):
        warn(
            f"{sample.name}: the centres of {len(lost)} of {len(rows)} patches are off the image, which changed after "
            f"{maker(record)}; they are marked obs[{_keys.VALID!r}]=False and get NaN features."
        )
        valid[lost] = False
        sample.table.obs[_keys.VALID] = valid
