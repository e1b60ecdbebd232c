"""Rows of many samples, checked and concatenated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from os import SEEK_END
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spade._checks import plural
from spade._samples.given.origins import Origins
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Rows
from spade.core.errors import warn

#: Rows that are copied at a time.
CHUNK = 1_024


class Collector:
    """Rows of many samples, one after another; who is left out is counted, names, widths and origins are checked.

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
        self.origins = Origins()
        self._features: dict[str, Stack] = {}
        self._columns: dict[str, Stack | SparseStack] = {}
        self._widths: dict[str, dict[str, int]] = {}
        self._skipped: dict[str, int] = {}

    def add(
        self,
        sample: Sample,
        rows: Rows,
        features: Mapping[str, NDArray[Any]] | None = None,
        **columns: NDArray[Any] | csr_matrix,
    ) -> None:
        """Add rows of a sample: features ``(n, d)`` by name, and other columns; ``section`` is added by itself.

        Features whose name is a key of ``obsm``, or several joined by ``" + "``, must be of one origin in all samples.
        """
        self.section_names += [section.name for section in sample.sections]
        check_names(self.section_names, "sections")
        for name, values in (features or {}).items():
            self._features.setdefault(name, Stack()).add(values)
            self._widths.setdefault(name, {})[sample.name] = values.shape[1]
            check_widths(self._widths[name], f"{self.argument}={name!r}")
            for key in name.split(" + "):
                self.origins.check(sample, key)
        for name, column in {"section": sample.section_of_row()[rows], **columns}.items():
            if isinstance(column, csr_matrix):
                self._columns.setdefault(name, SparseStack()).add(column)
            else:
                self._columns.setdefault(name, Stack()).add(column)

    def skip(self, reason: str, n: int) -> None:
        """Count rows that are left out for a reason, such as ``"without counts"``."""
        self._skipped[reason] = self._skipped.get(reason, 0) + n

    def joined(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Say who was left out, and return features and columns of all samples; the collector is empty afterwards."""
        for reason, n in self._skipped.items():
            if n:
                self.say(f"{plural(n, 'spot')} {reason} {'is' if n == 1 else 'are'} left out of {self.purpose}.")
        features = {name: stack.joined() for name, stack in self._features.items()}
        return features, {name: stack.joined() for name, stack in self._columns.items()}


def check_widths(widths: Mapping[str, int], what: str) -> None:
    """Raise if features do not have one width in all samples."""
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{name}: {width}" for name, width in widths.items())
        raise ValueError(f"{what} differs in width between samples ({listed}). Encode all of them alike.")


class Stack:
    """Rows of one sample after another in one array, which grows with them, so that memory holds every row once.

    Parameters
    ----------
    on_disk
        Whether a file of the machine's temporary folder holds the rows instead of memory; the array is then a map of
        it, and all parts are of one type. The file has no name, so it goes with the array and with the process.
    """

    def __init__(self, *, on_disk: bool = False) -> None:
        self.on_disk = on_disk
        self._file: IO[bytes] | None = None
        self._rows: NDArray[Any] | None = None

    def add(self, part: NDArray[Any], chosen: Rows | None = None) -> None:
        """Add rows: all of them, or those that are chosen."""
        if self._rows is None and self.on_disk:
            self._file = TemporaryFile(prefix="spade-")
        rows = part[:0].copy() if self._rows is None else self._rows
        end, n = len(rows), len(part) if chosen is None else len(chosen)
        shape = (end + n, *part.shape[1:])
        if self._file is None:
            rows = rows.astype(np.result_type(rows, part), copy=False)
            rows.resize(shape, refcheck=False)  # a large array grows in place
            for piece in _pieces(part, chosen):
                rows[end : end + len(piece)] = piece
                end += len(piece)
        elif n:
            self._file.seek(0, SEEK_END)
            for piece in _pieces(part, chosen):
                self._file.write(np.ascontiguousarray(piece).data)
            self._file.flush()
            rows = np.memmap(self._file, part.dtype, mode="r+", shape=shape)
        self._rows = rows

    def joined(self) -> NDArray[Any]:
        """Return all rows; the stack is empty afterwards."""
        if self._rows is None:
            raise ValueError("no rows were added.")
        if self._file is not None:
            self._file.close()  # the map of it stays
        rows, self._rows = self._rows, None
        return rows


def _pieces(part: NDArray[Any], chosen: Rows | None) -> Iterator[NDArray[Any]]:
    """Yield rows; those that are chosen are copied, a few at a time."""
    if chosen is None:
        yield part
        return
    for start in range(0, len(chosen), CHUNK):
        yield part[chosen[start : start + CHUNK]]


class SparseStack:
    """Rows of one sparse matrix after another, as :class:`Stack`."""

    def __init__(self) -> None:
        self._counts, self._indices, self._values, self._width = Stack(), Stack(), Stack(), 0

    def add(self, part: csr_matrix) -> None:
        """Add rows."""
        self._width = part.shape[1]
        for stack, values in (
            (self._counts, np.diff(part.indptr)), (self._indices, part.indices), (self._values, part.data),
        ):  # fmt: skip
            stack.add(values)

    def joined(self) -> csr_matrix:
        """Return all rows; the stack is empty afterwards."""
        counts = self._counts.joined()
        indptr = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        return csr_matrix((self._values.joined(), self._indices.joined(), indptr), shape=(len(counts), self._width))
