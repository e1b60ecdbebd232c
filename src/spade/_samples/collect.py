"""Rows of many samples, checked and concatenated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import plural
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Rows
from spade.core.errors import warn

Part = TypeVar("Part", NDArray[Any], csr_matrix)


class Collector:
    """Rows of many samples, one sample after another: who is left out is counted, names and widths are checked.

    Parameters
    ----------
    purpose
        What the rows are for: the end of the sentence "3 spots without counts are left out of …".
    argument
        Argument that named the features, for the error about their widths.
    say
        Takes that sentence: a warning or a log line.
    """

    def __init__(self, purpose: str, *, argument: str = "use_rep", say: Callable[[str], object] = warn) -> None:
        self.purpose, self.argument, self.say = purpose, argument, say
        self.section_names: list[str] = []
        self._features: dict[str, list[NDArray[Any]]] = {}
        self._columns: dict[str, list[Any]] = {}
        self._widths: dict[str, dict[str, int]] = {}
        self._skipped: dict[str, int] = {}

    def add(
        self,
        sample: Sample,
        rows: Rows,
        features: Mapping[str, NDArray[Any]] | None = None,
        **columns: NDArray[Any] | csr_matrix,
    ) -> None:
        """Add rows of a sample: features ``(n, d)`` by name, and other columns; ``section`` is added by itself."""
        self.section_names += [section.name for section in sample.sections]
        check_names(self.section_names, "sections")
        for name, values in (features or {}).items():
            self._features.setdefault(name, []).append(values)
            self._widths.setdefault(name, {})[sample.name] = values.shape[1]
            check_widths(self._widths[name], f"{self.argument}={name!r}")
        for name, column in {"section": sample.section_of_row()[rows], **columns}.items():
            self._columns.setdefault(name, []).append(column)

    def skip(self, reason: str, n: int) -> None:
        """Count rows that are left out for a reason, such as ``"without counts"``."""
        self._skipped[reason] = self._skipped.get(reason, 0) + n

    def joined(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Say who was left out, and return features and columns of all samples; the collector is empty afterwards."""
        for reason, n in self._skipped.items():
            if n:
                self.say(f"{plural(n, 'spot')} {reason} {'is' if n == 1 else 'are'} left out of {self.purpose}.")
        features = {name: concatenate(parts) for name, parts in self._features.items()}
        return features, {name: concatenate(parts) for name, parts in self._columns.items()}


def check_widths(widths: Mapping[str, int], what: str) -> None:
    """Raise if features do not have one width in all samples."""
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name}: {width}" for name, width in widths.items())
        raise ValueError(f"{what} differs in width between samples ({listed}). Encode all of them alike.")


@overload
def concatenate(parts: list[csr_matrix]) -> csr_matrix: ...
@overload
def concatenate(parts: list[NDArray[Any]]) -> NDArray[Any]: ...
def concatenate(parts: list[Any]) -> Any:
    """Concatenate rows of arrays or CSR matrices; a part is let go once it is copied, so that memory holds it once."""
    if isinstance(parts[0], csr_matrix):
        width = parts[0].shape[1]
        counts = concatenate([np.diff(part.indptr) for part in parts])
        indices, values = [part.indices for part in parts], [part.data for part in parts]
        parts.clear()
        indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return csr_matrix((concatenate(values), concatenate(indices), indptr), shape=(len(counts), width))
    out = np.empty((sum(map(len, parts)), *parts[0].shape[1:]), np.result_type(*parts))
    start = 0
    while parts:
        part = parts.pop(0)
        out[start : start + len(part)] = part
        start += len(part)
    return out
