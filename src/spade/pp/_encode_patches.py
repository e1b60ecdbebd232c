"""Frozen image features of patches."""

from __future__ import annotations

import logging
from os import PathLike

import numpy as np

from spade import _keys, encoders
from spade._samples.encode import BATCH, encode_rows
from spade._samples.open import Samples, iter_samples
from spade._samples.sample import Sample
from spade.encoders import Encoder

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

    Patches are read in chunk order from the resolution level that is nearest to, and at least as fine as, what the encoder
    needs, and encoded batch by batch; memory is bounded by a batch and the chunk cache, never by the slide. Each sample is
    finished (and, given as a path, saved) before the next is opened.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or an iterable of these.
    encoder
        ``"texture"``: the built-in features that need no weights. Otherwise a name of
        :func:`spade.encoders.available`, any timm architecture, ``"hf-hub:owner/name"``, an encoder from
        :func:`spade.encoders.get`, or a :class:`spade.models.SealModel` that tuned one. A network gets patches of its own input size, normalised by its own mean and
        deviation.
    patches_key
        What :func:`patches` wrote.
    table_key
        Table; may be left out when there is one.
    weights
        None: the published weights. A path to ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``: these, read as data
        and with every key checked. ``"random"``: untrained, with a warning.
    batch_size
        Patches per batch.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    precision
        ``"fp32"`` or ``"bf16"`` (autocast), for networks.
    rng
        Seed of random weights.
    key_added
        ``obsm`` key; by default ``"X_"`` and the encoder's name.

    Returns
    -------
    None
        Writes ``obsm[key_added]``, float32 ``(n_obs, d)``, NaN where the patch is not valid, and the encoder and
        the id of its weights in ``uns["spade"][key_added]``.

    Raises
    ------
    KeyError
        Patches, image or table that is not there.
    ValueError
        Unknown encoder, or weights that do not fit it.
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
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: expected a whole number of at least 1.")
    if isinstance(encoder, str):
        key = _keys.features(encoder) if key_added is None else _keys.check_key(key_added)
        encoder = encoders.get(encoder, weights=weights, device=device, precision=precision, rng=rng)
    else:
        if weights is not None:
            raise ValueError(f"weights={weights!r}: the encoder is made already; give its weights to encoders.get.")
        key = _keys.features(encoder.name) if key_added is None else _keys.check_key(key_added)
    for sample in iter_samples(samples, table_key=table_key):
        _encode_sample(sample, encoder, patches_key, batch_size, key)


def _encode_sample(sample: Sample, encoder: Encoder, patches_key: str, batch_size: int, key: str) -> None:
    features, origin = encode_rows(sample, encoder, patches_key, batch_size)
    sample.table.obsm[key] = features
    _keys.write_provenance(sample.table.uns, key, function="pp.encode_patches", **origin)
    sample.save()
    logger.info("%s: wrote obsm[%r], %d × %d", sample.name, key, *features.shape)
