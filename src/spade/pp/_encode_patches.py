"""Frozen image features of patches."""

from __future__ import annotations

import logging
from functools import lru_cache, partial
from os import PathLike
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from spatialdata import SpatialData

from spade import _keys, encoders
from spade._said.lines import size, speaks, wrote
from spade._samples.encode import BATCH, EncodingPlan, plan_encoding
from spade._samples.encoding.client import on_client
from spade._samples.encoding.devices import encoders_on, in_step
from spade._samples.encoding.features import encoded, is_encoded, remove_pieces, stamp
from spade._samples.open import Samples, iter_samples
from spade._samples.patches import maker, patch_record
from spade._samples.sample import Sample
from spade._samples.slides.colour import Colour, colour_of
from spade.core.checks import brief, check_choice, check_count, check_flag, check_text
from spade.core.device import PRECISIONS, resolve_device
from spade.core.distributed.ranks import ALONE, Ranks, torchrun_ranks
from spade.core.errors import warn
from spade.core.rng import as_seed
from spade.encoders import Encoder
from spade.encoders._wrap import as_encoder
from spade.models import SealModel

if TYPE_CHECKING:
    from distributed import Client

logger = logging.getLogger("spade")


@speaks
def encode_patches(
    samples: Samples,
    encoder: str | Encoder = "texture",
    *,
    patches_key: str = _keys.PATCHES,
    table_key: str | None = None,
    weights: str | PathLike[str] | None = None,
    colour: str | None = None,
    colour_reference: SpatialData | str | PathLike[str] | None = None,
    batch_size: int = BATCH,
    device: str = "auto",
    devices: int = 1,
    precision: str = "fp32",
    client: Client | None = None,
    rng: int | np.random.Generator = 0,
    overwrite: bool = False,
    key_added: str | None = None,
) -> None:
    """Turn every patch into frozen image features.

    Patches are read in the order of the image's chunks, from the coarsest resolution that is still at least as fine as
    the encoder needs. Threads read the next batches while the encoder works. Each sample is finished (and, given as a
    path, saved) before the next is opened.

    Memory is bounded by a few pieces of 8 batches and the chunk caches, never by the slide. Features of an object are
    held in memory. Those of a store are written beside it piece by piece, and mapped from a file when the table is
    written.

    An interrupted encoding of a store goes on, at the next call with the same arguments, with the pieces that are
    there, and ends in the same bytes. The pieces lie in the hidden folder ``.{store}.spade-encoding-{key}``, which is
    removed in the end. Those of another encoder, of other settings or patches, or of an image that was written since,
    are replaced, and the log says so. Stores that are finished are left as they are.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    encoder
        ``"texture"``: the built-in features that need no weights. Otherwise a name of
        :func:`spade.encoders.available`, any timm architecture, ``"hf-hub:owner/name"``, an encoder from
        :func:`spade.encoders.get`, or a :class:`spade.models.SealModel` that fine-tuned one. A network gets patches of
        its own input size, normalised by its own mean and deviation. A timm model, or a function from patches
        ``(n, px, px, 3)`` to features ``(n, d)``, may be given as it is; any other network is wrapped with
        :func:`spade.encoders.wrap`, which says what its input is.
    patches_key
        What :func:`patches` wrote.
    table_key
        Table; may be left out when there is one.
    weights
        None: the published weights. A path to ``.safetensors``, ``.pth``, ``.pt`` or ``.bin``: the weights in this
        file, which is read as data and whose keys are all checked. ``"random"``: untrained, with a warning.
    colour
        How patches are stain-normalised before they are encoded, as scanners and stains differ. None: not at all.
        ``"macenko"``, ``"vahadane"``: optical density is parted into haematoxylin, eosin and a rest, and both stains
        get the vectors and the largest amounts of the reference; Vahadane's method finds them by a sparse
        factorisation. ``"reinhard"``: the tissue gets its mean and deviation in lαβ. White stays white. Each section
        is told from tissue on its whole image, at 1 µm/px and in at most 200 windows of 128 µm, so it does not depend
        on the spots or on other samples.
    colour_reference
        Slide whose colours all patches get: a ``SpatialData`` with one H&E image of known µm/px, or the path of its
        store. None: the vectors and amounts of M. Veta's implementation of Macenko's method; for ``"reinhard"`` mean
        and deviation of a region of TCGA-A2-A3XS-DX1 (Amgad et al. 2019), as HistomicsTK has them.
    batch_size
        Patches per batch.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``, for an encoder by name or a network. A function or an encoder that is ready
        runs where it is; so leave ``device`` and ``precision`` out.
    devices
        Number of GPUs (or, for ``"cpu"``, of threads) that share the patches of each sample. Each has a copy of the
        encoder. Under ``torchrun``, leave it out: every process has one device, and all share the patches of each
        sample. Call the function in all of them. The first process writes, into a folder that all must see.
    precision
        ``"fp32"`` or ``"bf16"`` (autocast), for networks.
    client
        A ``dask.distributed.Client``. Every store is encoded in a task of its own, by a worker that sees the same
        path. Give an encoder by its name: each worker then loads it once.
    rng
        Seed of random weights.
    overwrite
        False: a store whose features are there, by the same encoder and settings, of the same patches and of an image
        that was not written since, is left alone, and the log says so. True: it is encoded again. Other features under
        the key are replaced either way, and so are those of an object in memory.
    key_added
        ``obsm`` key; None: ``"X_"`` and the encoder's name.

    Returns
    -------
    None
        Writes ``obsm[key_added]``, float32 ``(n_obs, d)``, NaN where the patch is not valid, and the encoder, its id,
        and colour and reference in ``uns["spade"][key_added]``. Models refuse features of patches that got other
        colours than those they were trained on.

    Raises
    ------
    KeyError
        Patches, image or table that is not there.
    TypeError
        An encoder without ``encode``, ``name``, ``id``, ``dim`` or ``input_px``, or a function that cannot encode one
        black patch, before a sample is opened; or one that returns no real numbers. An object in memory with
        ``client``, whose workers would change a copy of it.
    ValueError
        Unknown encoder, a network that does not say what its input is, ``device`` or ``precision`` for an encoder that
        has its own, weights that do not fit it or hold NaN or infinite values, or an encoder that returns anything but
        finite features ``(n, dim)``, which is seen at its first batch. NaN stands for spots without a valid patch and
        nothing else. More devices than there are, or several for an encoder without ``to(device)``. With ``colour``: an
        image with less than 0.02 mm² of tissue or without H&E, a reference whose image or µm/px is not clear, or a
        ``SealModel``, which was tuned on patches as they are. Tiles on tissue that was found anew since.
    RuntimeError
        Published weights that cannot be downloaded. Under ``torchrun``, another process that ended.

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
    check_count("devices", devices)
    check_text("device", device)
    check_choice("precision", precision, PRECISIONS)
    check_flag("overwrite", overwrite)
    if key_added is not None:
        _keys.check_key(key_added)
    settings: dict[str, Any] = {
        "patches_key": patches_key,
        "table_key": table_key,
        "colour": _checked_colour(encoder, colour, colour_reference),
        "batch_size": batch_size,
        "devices": devices,
        "overwrite": overwrite,
        "key_added": key_added,
    }
    build: dict[str, Any] = {"weights": weights, "device": device, "precision": precision, "rng": as_seed(rng)}
    encoder = _checked_encoder(encoder, weights, device, precision)
    if client is not None:
        _encode_on_client(client, samples, encoder, build, settings)
        return
    with torchrun_ranks() as ranks:
        build["device"] = device if ranks.local is None else resolve_device(device, ranks.local)
        _encode(samples, _ready(encoder, **build), ranks, **settings)


def _encode(
    samples: Samples,
    encoder: Encoder,
    ranks: Ranks,
    *,
    patches_key: str,
    table_key: str | None,
    colour: Colour | None,
    batch_size: int,
    devices: int,
    overwrite: bool,
    key_added: str | None,
) -> None:
    """Encode samples with an encoder that is ready, together with the other ranks."""
    on_devices = encoders_on(encoder, devices, ranks)
    key = _keys.features(encoder.name) if key_added is None else key_added
    for sample in in_step(iter_samples(samples, table_key=table_key, writes=ranks.leads), ranks):
        plan = plan_encoding(sample, encoder, patches_key, batch_size, colour)
        if not overwrite and ranks.first(partial(is_encoded, sample, plan, encoder, key)):
            if ranks.leads:
                remove_pieces(sample, plan, encoder, key)
            logger.info("%s: obsm[%r] is there; overwrite=True encodes it again", sample.name, key)
            continue
        if key in sample.table.obsm:
            logger.info("%s: obsm[%r] is there and is replaced", sample.name, key)
        with encoded(sample, plan, on_devices, key, ranks) as features:
            if features is not None:
                _write(sample, plan, features, key, stamp(sample, plan, encoder, features))


def _encode_on_client(
    client: Client, samples: Samples, encoder: str | Encoder, build: dict[str, Any], settings: dict[str, Any]
) -> None:
    """Encode every store in a task of a client, whose workers then let go of their encoders."""
    with torchrun_ranks() as ranks:
        if not ranks.alone:
            raise ValueError("client= under torchrun: let either of them deal the work.")
    on_client(client, samples, _encode_store, _forget, encoder=encoder, build=build, settings=settings)


def _encode_store(store: Samples, *, encoder: str | Encoder, build: dict[str, Any], settings: dict[str, Any]) -> None:
    """Encode a store, as a task of a worker of dask."""
    _encode(store, _ready_once(encoder, **build) if isinstance(encoder, str) else encoder, ALONE, **settings)


def _checked_encoder(
    encoder: object, weights: str | PathLike[str] | None, device: str, precision: str
) -> str | Encoder:
    """Return a name or an encoder; raise if encoder or weights are not what they must be, as far as that is seen."""
    if weights is not None and (not isinstance(weights, (str, PathLike)) or not str(weights)):
        raise ValueError(f'weights={brief(weights)}: expected a path to a file of weights, "random", or None.')
    if isinstance(encoder, str):
        return check_text("encoder", encoder)
    ready = as_encoder(encoder, device=device, precision=precision)
    if weights is not None:
        raise ValueError(
            f"weights={weights!r}: the encoder already has weights; pass these to sp.encoders.get instead."
        )
    return ready


def _checked_colour(
    encoder: object, colour: str | None, reference: SpatialData | str | PathLike[str] | None
) -> Colour | None:
    """Return the colours that patches get; raise if the encoder was tuned on patches as they are."""
    if colour is not None and isinstance(encoder, SealModel):
        raise ValueError(
            f"colour={colour!r}: sp.tl.train_seal tuned this SealModel on patches in their own colours, and it reads "
            "no others; leave colour= out."
        )
    return colour_of(colour, reference)


def _ready(encoder: str | Encoder, **build: Any) -> Encoder:
    """Return an encoder that is ready to run."""
    return encoders.get(encoder, **build) if isinstance(encoder, str) else encoder


@lru_cache(maxsize=1)
def _ready_once(encoder: str, **build: Any) -> Encoder:
    """Return an encoder that the next stores of a worker use as well, until it is told to forget it."""
    return _ready(encoder, **build)


def _forget() -> None:
    _ready_once.cache_clear()


def _write(sample: Sample, plan: EncodingPlan, features: NDArray[np.float32], key: str, made: str | None) -> None:
    """Write the features of a sample, and save it."""
    sample.table.obsm[key] = features
    _mark_valid(sample, plan)
    _keys.write_provenance(sample.table.uns, key, function="pp.encode_patches", stamp=made, **plan.origin)
    sample.save()
    wrote(sample.name, f"obsm[{key!r}]", detail=size(features))


def _mark_valid(sample: Sample, plan: EncodingPlan) -> None:
    """Mark the patches that were not encoded as not valid, such as those that a crop of the image left outside."""
    if _keys.VALID not in sample.table.obs:
        return
    record = patch_record(sample, plan.origin["patches_key"])
    regions = record["regions"]
    rows = np.concatenate([[], *(section.rows for section in sample.sections if section.region in regions)]).astype(int)
    valid = sample.table.obs[_keys.VALID].to_numpy(dtype=bool, copy=True)
    was_encoded = np.zeros(len(valid), dtype=bool)
    for encoded_rows, _ in plan.sections:
        was_encoded[encoded_rows] = True
    lost = rows[valid[rows] & ~was_encoded[rows]]
    if len(lost):
        warn(
            f"{sample.name}: the centres of {len(lost)} of {len(rows)} patches are off the image, which changed after "
            f"{maker(record)}; they are marked obs[{_keys.VALID!r}]=False and get NaN features."
        )
        valid[lost] = False
        sample.table.obs[_keys.VALID] = valid
