"""Networks and functions of the user's own as encoders."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Sequence
from typing import Any

from spade.core.checks import brief, check_count, check_positive, check_text, is_number
from spade.encoders._spec import Encoder


def wrap(
    model: Any,
    *,
    name: str | None = None,
    id: str | None = None,
    input_px: int | None = None,
    mpp: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    transform: Callable[[Any], Any] | None = None,
    device: str = "auto",
    precision: str = "fp32",
) -> Encoder:
    """Make an encoder of a network or of a function.

    A timm model knows the side, mean and deviation of its input. For any other network they must be given, or a
    ``transform`` that makes its input. A function gets the patches as they are, uint8 ``(n, px, px, 3)``.

    Parameters
    ----------
    model
        A ``torch.nn.Module`` that encodes ``(n, 3, px, px)`` as ``(n, d)``, or a function that does so for patches. A
        network is copied, and the copy put into evaluation mode: what happens to it later changes nothing.
    name
        Name, from which the key of the features is made; None: that of the architecture, class or function.
    id
        Identity of what a function computes from patches, stored beside its features; None: its module and name,
        ``input_px`` and what Python writes of ``transform``, and of the function if that is a ``partial`` or an object.
        Code does not count, nor what Python does not write. That of a network is a hash of its weights, its structure
        as torch writes it, side, mean and deviation or ``transform``.
    input_px
        Side of the patches in pixels; None: that of a timm model, else as they were made.
    mpp
        µm/px of the patches it is meant for; None: not stated.
    mean, std
        Mean and deviation of red, green and blue, for values from 0 to 1; None: those of a timm model.
    transform
        In place of ``mean`` and ``std``: a function from a PIL image to a tensor ``(3, h, w)``, as those of torchvision
        and timm, which is called for every patch.
    device
        Where a network runs, as in :func:`get`; not for a function.
    precision
        In which precision a network runs, as in :func:`get`; not for a function.

    Returns
    -------
    Encoder
        One that :func:`spade.pp.encode_patches` takes.

    Raises
    ------
    TypeError
        If ``model`` is neither, or cannot encode one black patch, or does not return numbers.
    ValueError
        If side, mean or deviation of a network are not known, an argument does not apply, or the features are not
        ``(n, d)``.

    Examples
    --------
    >>> import numpy as np
    >>> import spade as sp
    >>> def brightness(patches):
    ...     return patches.mean((1, 2))
    >>> encoder = sp.encoders.wrap(brightness)
    >>> encoder.name, encoder.dim
    ('brightness', 3)
    """
    import torch

    from spade.encoders._own import WrappedFunction, WrappedNetwork

    if isinstance(model, type) or not callable(model):
        raise TypeError(
            f"model={brief(model)}: expected a network (torch.nn.Module) or a function"
            f"{'; make an object of this class' if isinstance(model, type) else ''}."
        )
    if input_px is not None:
        check_count("input_px", input_px)
    if mpp is not None:
        check_positive("mpp", mpp, "µm/px")
    if transform is not None and not callable(transform):
        raise TypeError(f"transform={brief(transform)}: expected a function from a PIL image to a tensor.")
    if transform is not None and (mean is not None or std is not None):
        raise ValueError("mean= and std= beside transform=: the transform makes the input, so leave them out.")
    moments = [_channels(key, value) for key, value in (("mean", mean), ("std", std))]
    name = _name(model) if name is None else check_text("name", name)
    if isinstance(model, torch.nn.Module):
        if id is not None:
            raise ValueError(
                f"id={brief(id)}: the identity of a network is that of its weights and its input; leave id= out."
            )
        facts = {} if transform else _facts(model, name, input_px, moments)
        own = copy.deepcopy(model).eval()
        options = {"input_px": input_px, "transform": transform} | facts
        return WrappedNetwork(own, name=name, mpp=mpp, device=device, precision=precision, **options)
    if mean is not None or std is not None:
        raise ValueError("mean=, std=: a function gets the patches as they are, so leave them out, or pass transform=.")
    if device != "auto" or precision != "fp32":
        raise ValueError(
            f"device={brief(device)}, precision={brief(precision)}: a function runs where it is; leave them out."
        )
    known = None if id is None else check_text("id", id)
    module = getattr(model, "__module__", "")
    return WrappedFunction(model, name=name, id=known, module=module, input_px=input_px, mpp=mpp, transform=transform)


def as_encoder(encoder: Any, *, device: str = "auto", precision: str = "fp32") -> Encoder:
    """Return an encoder as it is, and a network or function wrapped; raise before any patch is encoded."""
    import torch

    from spade._checks import check_idle  # which needs pandas, as the registry does not
    from spade.encoders._output import check_encoder

    whole = all(hasattr(encoder, name) for name in ("encode", "name", "id", "dim", "input_px"))
    if isinstance(encoder, torch.nn.Module) and not whole:
        return wrap(encoder, device=device, precision=precision)
    if callable(encoder) and not hasattr(encoder, "encode"):
        return wrap(encoder, device=device, precision=precision)
    ready = check_encoder(encoder)
    settings = [("device", device, "auto"), ("precision", precision, "fp32")]
    check_idle(settings, f"encoder {ready.name!r} is ready, with a device and precision of its own")
    return ready


def _facts(model: Any, name: str, input_px: int | None, moments: list[tuple[float, ...] | None]) -> dict[str, Any]:
    """Return side and moments of the input of a network: as given, else as timm records them, else raise."""
    config = getattr(model, "pretrained_cfg", None) or {}
    side: Any = input_px or (config.get("input_size") or (None,))[-1]
    mean, std = (given or config.get(key) for given, key in zip(moments, ("mean", "std"), strict=True))
    if lacking := [key for key, value in (("input_px", side), ("mean", mean), ("std", std)) if value is None]:
        raise ValueError(
            f"encoder {name!r} ({type(model).__name__}) does not say what its input is: pass sp.encoders.wrap(model, "
            f"{', '.join(f'{key}=…' for key in lacking)}), or wrap(model, transform=…), with the facts of its training."
        )
    return {"input_px": int(side), "moments": (mean, std)}


def _name(model: Any) -> str:
    config = getattr(model, "pretrained_cfg", None) or {}
    name = config.get("architecture") or getattr(model, "__name__", None) or type(model).__name__
    return str(name) if re.search("[A-Za-z0-9]", str(name)) else type(model).__name__


def _channels(name: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    """Return a number for each of red, green and blue; deviations must be positive."""
    if values is None:
        return None
    numbers = () if is_number(values) or isinstance(values, str) else tuple(values)
    good = len(numbers) == 3 and all(is_number(value) and (name == "mean" or value > 0) for value in numbers)
    if not good:
        kind = "numbers" if name == "mean" else "positive numbers"
        raise ValueError(f"{name}={brief(values)}: expected three {kind}, of red, green and blue from 0 to 1.")
    return tuple(float(value) for value in numbers)
