"""Frozen image encoders: the built-in ``"texture"``, known pathology models, any timm model, networks of one's own."""

from __future__ import annotations

from os import PathLike

import numpy as np

from spade.encoders._check import EncoderStatus, check
from spade.encoders._spec import SPECS, Encoder, EncoderSpec, EncoderTable, spec_of
from spade.encoders._wrap import wrap

__all__ = ["Encoder", "EncoderSpec", "EncoderStatus", "available", "check", "get", "wrap"]


def available() -> dict[str, EncoderSpec]:
    """Return the encoders that are known by name. Any timm architecture or ``"hf-hub:…"`` id works as well.

    Returns
    -------
    dict
        From name to :class:`EncoderSpec`; a notebook shows it as a table.

    Examples
    --------
    >>> import spade as sp
    >>> sp.encoders.available()["uni2_h"].dim
    1536
    >>> sp.encoders.available()["uni2_h"]
    EncoderSpec: uni2_h, 1,536 features, input of 224 px, 0.5 µm/px, licence CC BY-NC-ND 4.0, access on request
    """
    return EncoderTable(SPECS)


def get(
    encoder: str,
    *,
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "fp32",
    rng: int | np.random.Generator = 0,
) -> Encoder:
    """Return an encoder that is ready to run.

    Parameters
    ----------
    encoder
        ``"texture"``, a name of :func:`available`, a timm architecture, or ``"hf-hub:owner/name"``.
    weights
        None: the published weights. A path: the ``.safetensors`` file or torch state dict there. ``"random"``:
        untrained weights.
    device
        ``"auto"``, ``"cpu"`` or ``"cuda"``.
    precision
        ``"fp32"`` or ``"bf16"``.
    rng
        Seed of random weights.

    Returns
    -------
    Encoder
        With ``encode(patches, mpp)``, ``name``, ``id``, ``dim``, ``input_px`` and ``mpp``.

    Raises
    ------
    ValueError
        If the encoder is not known, or the weights are not its weights.
    FileNotFoundError
        If there is no such file of weights.
    RuntimeError
        If the published weights could not be downloaded.

    Examples
    --------
    >>> import numpy as np
    >>> import spade as sp
    >>> texture = sp.encoders.get("texture")
    >>> texture.encode(np.zeros((2, 64, 64, 3), dtype=np.uint8), mpp=0.5).shape == (2, texture.dim)
    True
    """
    if encoder == "texture":
        from spade.encoders._texture import TextureEncoder

        if weights is not None:
            raise ValueError(f'weights={weights!r}: encoder="texture" has no weights; leave weights= out.')
        return TextureEncoder()
    from spade.encoders._timm import TimmEncoder

    return TimmEncoder(spec_of(encoder), weights=weights, device=device, precision=precision, rng=rng)
