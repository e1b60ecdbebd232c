"""What an encoder must be and must return; every call of an encoder goes through here."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._checks import plural
from spade.core.checks import brief, check_count, check_text
from spade.encoders._spec import Encoder

#: Kinds of numpy numbers that features may be: whole and real numbers.
NUMBERS = "iuf"


def check_encoder(encoder: object) -> Encoder:
    """Return ``encoder`` if it has all that is read of an :class:`Encoder`, else raise before any patch is encoded."""
    if not callable(getattr(encoder, "encode", None)):
        raise TypeError(
            f"encoder={brief(encoder)}: expected the name of an encoder, an encoder from sp.encoders.get, a SealModel, "
            "a network (torch.nn.Module) or a function of patches."
        )
    missing = [name for name in ("name", "id", "dim", "input_px") if not hasattr(encoder, name)]
    if missing:
        raise TypeError(
            f"encoder={encoder!r} lacks {', '.join(missing)}. An encoder has encode(patches, mpp), name, id (of its "
            "weights), dim, input_px (None: any) and mpp (None: not known); see sp.encoders.Encoder."
        )
    ready: Any = encoder
    if not re.search("[A-Za-z0-9]", check_text("encoder.name", ready.name)):
        raise ValueError(
            f"encoder.name={ready.name!r}: expected letters or digits, which the key of its features needs."
        )
    check_text("encoder.id", ready.id)
    check_count("encoder.dim", ready.dim)
    if ready.input_px is not None:
        check_count("encoder.input_px", ready.input_px, 0)
    checked: Encoder = ready
    return checked


def encode_batch(encoder: Encoder, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
    """Encode patches, and return their features ``(n, dim)``: finite float32, else an error that names the encoder."""
    return check_features(encoder, encoder.encode(patches, mpp), len(patches), encoder.dim)


def check_features(encoder: Encoder, features: Any, n: int, dim: int | None = None) -> NDArray[np.float32]:
    """Return what an encoder made of ``n`` patches as finite float32 ``(n, dim)``; None is any width.

    Torch tensors are converted. Nothing is broadcast, and nothing may be NaN: NaN says that a spot has no valid patch.
    """
    named = _named(encoder)
    values = _as_array(features, named)
    wanted = f"({n}, {'d' if dim is None else dim})"
    if values.ndim != 2 or len(values) != n or dim not in (None, values.shape[1]) or not values.shape[1]:
        raise ValueError(
            f"{named} returned features of shape {values.shape} for {plural(n, 'patch')}; "
            f"expected {wanted}: one row of encoder.dim numbers for every patch."
        )
    with np.errstate(over="ignore"):  # reported below
        plain = values.astype(np.float32)
    bad = ~np.isfinite(plain).all(1)
    if bad.any():
        raise ValueError(
            f"{named} returned NaN or infinite features for {int(bad.sum())} of {plural(n, 'patch')}, the first in row "
            f"{int(np.argmax(bad))} of a batch. Only spots without a valid patch have NaN. Look for damaged weights or "
            "a division by zero in the encoder; if its precision is 'bf16', try precision='fp32'."
        )
    return plain


def _as_array(features: Any, named: str) -> NDArray[Any]:
    """Return features as an array of numbers, or raise with their type."""
    if isinstance(features, np.ma.MaskedArray):
        raise TypeError(f"{named} returned a masked array, whose hidden values cannot be stored; return all values.")
    kind = type(features).__name__
    if hasattr(features, "detach"):  # a torch tensor, also on a GPU or with gradients
        tensor = features.detach()
        features = (tensor.float() if tensor.is_floating_point() else tensor).cpu().numpy()
    try:
        values = np.asarray(features)
    except ValueError as error:  # rows of several lengths
        raise ValueError(f"{named} returned what is not an array of numbers ({error}).") from error
    if values.dtype.kind not in NUMBERS:
        raise TypeError(f"{named} returned {kind} of {values.dtype}; expected real numbers (float32).")
    return values


def _named(encoder: Encoder) -> str:
    precision = getattr(encoder, "precision", None)
    return f"encoder {encoder.name!r}{f' in precision {precision!r}' if precision else ''}"
