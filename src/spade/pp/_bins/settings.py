"""What is binned, how large the squares are, and where they are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from spade._checks import check_idle
from spade._samples.slides.elements import check_name
from spade.core.checks import check_choice, check_count, check_not_negative, check_positive, check_text

SOURCES = ("points", "cells", "bins")
MIN_QV = 20.0


@dataclass(frozen=True)
class BinSettings:
    """Arguments of :func:`~spade.pp.bin_expression`, checked."""

    size_um: float
    from_: str
    points_key: str | None
    feature_key: str | None
    count_key: str | None
    min_qv: float | None
    layer: str | None
    image_key: str | None
    mpp: float | None
    min_counts: int
    key_added: str

    def __post_init__(self) -> None:
        """Check all settings."""
        object.__setattr__(self, "size_um", check_positive("size_um", self.size_um, "µm"))
        check_choice("from_", self.from_, SOURCES)
        for name in ("points_key", "feature_key", "count_key", "layer", "image_key"):
            if getattr(self, name) is not None:
                check_text(name, getattr(self, name))
        if self.mpp is not None:
            object.__setattr__(self, "mpp", check_positive("mpp", self.mpp, "microns per pixel"))
        if self.min_qv is not None:
            object.__setattr__(self, "min_qv", check_not_negative("min_qv", self.min_qv))
        check_count("min_counts", self.min_counts)
        check_name(self.key_added)
        check_idle(self._idle(), f"with from_={self.from_!r} there is nothing to read by it")

    def _idle(self) -> Iterator[tuple[str, object, object]]:
        if self.from_ == "points":
            yield "layer", self.layer, None
            return
        yield from ((name, getattr(self, name), None) for name in ("points_key", "feature_key", "count_key"))
        yield "min_qv", self.min_qv, MIN_QV
