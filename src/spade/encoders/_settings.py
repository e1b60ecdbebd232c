"""What changes the features of a network or function of the user's own, beside its weights and its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

from spade.core.files import digest

#: Values that are known by what they are written as.
PLAIN = (str, bytes, int, float, complex, type(None), np.generic)
#: Attributes of modules that say how something is computed, not what; torch's own bookkeeping begins with ``_``.
HOW = ("training", "fused_attn", "grad_checkpointing")
#: How deep objects within objects are looked into.
DEPTH = 8
#: Sides of the patch that a transform is tried on if it gets patches of any side.
SIDES = (224, 320)
#: Parts of a transformed patch whose means are compared, and their decimals.
PARTS, DECIMALS = 48, 3


def told_apart(value: Any, seen: frozenset[int] = frozenset()) -> str:
    """Return what tells a value from others of its kind: numbers, text, arrays, and what functions and objects hold.

    The code of a function counts only if it has no name; addresses in memory never do.
    """
    if isinstance(value, PLAIN):
        return repr(value)
    if id(value) in seen:
        return "again"
    inner = partial(told_apart, seen=seen | {id(value)})
    if hasattr(value, "detach") and hasattr(value, "cpu"):
        value = value.detach().float().cpu().numpy()
    if isinstance(value, np.ndarray):
        return inner(value.tolist()) if value.dtype.hasobject else digest(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{inner(key)}: {inner(value[key])}' for key in value)}}}"
    if isinstance(value, Set):
        return f"{{{', '.join(sorted(map(inner, value)))}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(inner, value))}]"
    if isinstance(value, (type, ModuleType, BuiltinFunctionType, np.ufunc)):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"
    if isinstance(value, partial):
        return inner((value.func, value.args, value.keywords))
    if isinstance(value, MethodType):
        return inner((value.__func__, value.__self__))
    if isinstance(value, FunctionType):
        return f"{value.__module__}.{value.__qualname__}{inner(held_by(value))}"
    if hasattr(value, "__wrapped__"):  # of a compiled or cached function
        return inner(value.__wrapped__)
    if hasattr(value, "named_modules"):
        from spade.encoders._network import identity

        return f"{identity(value)} {structure(value, seen | {id(value)})}"
    kind = type(value)
    held = getattr(value, "__dict__", {}) if len(seen) < DEPTH else {}
    return f"{kind.__module__}.{kind.__qualname__}{inner(held)}"


def held_by(function: Any) -> list[Any]:
    """Return what a callable holds beside its name: nothing, for a function that is defined once in a module."""
    if isinstance(function, FunctionType):
        cells = [cell.cell_contents for cell in function.__closure__ or () if not _is_empty(cell)]
        code = function.__code__
        unnamed = [code.co_code, code.co_names, _constants(code)] if function.__name__ == "<lambda>" else []
        return [*cells, *(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).items(), *unnamed]
    if isinstance(function, MethodType):
        return [function.__self__]
    if isinstance(function, (BuiltinFunctionType, np.ufunc)):
        return []
    if not isinstance(function, partial) and hasattr(function, "__wrapped__"):
        return held_by(function.__wrapped__)
    return [function] if isinstance(function, partial) or getattr(function, "__dict__", None) else []


def _is_empty(cell: Any) -> bool:
    try:
        return cell.cell_contents is cell
    except ValueError:
        return True


def _constants(code: Any) -> list[Any]:
    """Return the constants of a code, and what functions within it are made of."""
    return [(c.co_code, c.co_names, _constants(c)) if hasattr(c, "co_code") else c for c in code.co_consts]


def structure(model: Any, seen: frozenset[int] = frozenset()) -> str:
    """Return the modules of a network with their settings, such as how it pools; its weights are not among them."""
    parts = []
    for name, module in model.named_modules():
        kind = type(module)
        held = {key: value for key, value in vars(module).items() if not key.startswith("_") and key not in HOW}
        of_torch = kind.__module__.startswith("torch.")
        settings = module.extra_repr() if of_torch else told_apart(_settings(held), seen)
        parts.append(f"{name} {kind.__qualname__} {settings}")
    return "\n".join(parts)


def _settings(held: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that are numbers, text, functions, or lists of these, in the order of their names."""

    def known(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return all(map(known, value))
        return isinstance(value, (*PLAIN, FunctionType, BuiltinFunctionType, type, partial))

    return {name: held[name] for name in sorted(held) if known(held[name])}


def made_by(transform: Callable[[Any], Any], input_px: int | None) -> str:
    """Return what tells a transform from others: what it makes of one picture, coarsely."""
    from PIL import Image

    from spade.encoders._network import as_float32

    parts: list[str] = []
    for side in SIDES if input_px is None else (input_px,):
        y, x, c = np.indices((side, side, 3))
        picture = (3 * x * x + 5 * y * y + 7 * x * y + 31 * c * (x + 1)) % 256
        made = np.asarray(as_float32(transform(Image.fromarray(picture.astype(np.uint8)))), dtype=np.float64)
        for part in np.array_split(made.ravel(), PARTS):
            means = (part.mean(), (part * (np.arange(len(part)) % 7)).mean()) if len(part) else ()
            parts += [repr(round(float(mean), DECIMALS) + 0.0) for mean in means]
        parts.append(str(made.shape))
    return digest(" ".join(parts))


def of_timm(model: Any, input_px: int | None, moments: Any) -> bool:
    """Whether a network is as timm builds it by its name, with the input that timm records: its weights say all."""
    name = (getattr(model, "pretrained_cfg", None) or {}).get("architecture")
    import timm
    import torch

    if not name or not timm.is_model(name):
        return False
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            usual = timm.create_model(name, num_classes=0).eval()
    except (NotImplementedError, RuntimeError):  # it cannot be built without memory
        return False
    from timm.data import resolve_model_data_config

    data = resolve_model_data_config(usual)
    facts = (int(data["input_size"][-1]), tuple(data["mean"]), tuple(data["std"]))
    return facts == (input_px, *map(tuple, moments)) and structure(usual) == structure(model)
