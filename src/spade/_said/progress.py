"""Progress bars that may be hidden."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def progress_bar(iterable: Iterable[Any] | None = None, *, shown: bool, **settings: Any) -> tqdm[Any]:
    """Return a bar of tqdm. ``disable=False`` would show it where the environment says ``TQDM_DISABLE=1``."""
    return tqdm(iterable, **settings) if shown else tqdm(iterable, **settings, disable=True)
