"""Join H&E images and spatial gene expression on SpatialData: ``import spade as sp``."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from spade._said.settings import settings
from spade._version import __version__

if TYPE_CHECKING:
    from spade import datasets, encoders, io, models, pl, pp, tasks, tl

__all__ = ["__version__", "datasets", "encoders", "io", "models", "pl", "pp", "settings", "tasks", "tl"]


def __getattr__(name: str) -> Any:
    """Load a submodule on first use, so that ``import spade`` stays fast."""
    if name in __all__:
        return import_module(f"spade.{name}")
    raise AttributeError(f"module 'spade' has no attribute {name!r}; there are {', '.join(__all__)}")


def __dir__() -> list[str]:
    return sorted(__all__)
