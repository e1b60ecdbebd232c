"""What libraries raise on files that are damaged or of another kind, and the one error that this becomes."""

from __future__ import annotations

import lzma
import struct
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from tokenize import TokenError

#: Errors of the standard library, and of libraries that raise these, on bytes that make no sense to them.
COMMON: tuple[type[Exception], ...] = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    BufferError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    StopIteration,
    SyntaxError,
    TypeError,
    ValueError,
    TokenError,
    UnpicklingError,
    lzma.LZMAError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
#: Errors of their own that libraries raise besides; a library that is not loaded has raised none.
OF_LIBRARIES = (
    "_csv.Error",
    "anndata._io.specs.registry.IORegistryError",
    "openslide.OpenSlideError",
    "PIL.Image.DecompressionBombError",
    "pyarrow.lib.ArrowException",
    "safetensors.SafetensorError",
    "shapely.errors.ShapelyError",
    "xarray.TreeIsomorphismError",
)
#: Bytes that a file may claim whatever its size, and how many times its size beyond that.
FREE_BYTES, MAX_RATIO = 2**26, 1100


class DamagedFileError(ValueError):
    """A file that cannot be read as what it should be; the message names it."""


@contextmanager
def reading(path: Path, what: str, argument: str | None = None) -> Iterator[None]:
    """Turn errors of a library that reads ``path`` as ``what`` into one that names the file; ours pass, as they do.

    Parameters
    ----------
    path
        The file.
    what
        What it should be, with its article, such as ``"an image"``.
    argument
        Argument (or sample) that the file was given as, for the message.
    """
    try:
        yield
    except PermissionError:
        raise
    except (*COMMON, *_of_libraries()) as error:
        ours = type(error) in (KeyError, ValueError, DamagedFileError)  # not those that libraries make of these
        if ours and (str(path) in str(error) or repr(str(path)) in str(error)):
            raise
        raise damaged(path, what, f"{type(error).__name__}: {reason(error)}", argument) from error


def damaged(path: Path, what: str, why: str, argument: str | None = None) -> DamagedFileError:
    """Return the error of a file that cannot be read as ``what``."""
    return DamagedFileError(
        f"{f'{argument}: ' if argument else ''}{str(path)!r} cannot be read as {what} ({why}); was the file cut off? "
        "Compare its size with the source and download it again, or convert it."
    )


def reason(error: BaseException) -> str:
    """Return the first sentence of an error."""
    text = str(error).encode(errors="backslashreplace").decode()
    return (text.strip().splitlines() or [type(error).__name__])[0].split(". ")[0][:200]


def check_claim(
    path: Path,
    what: str,
    claimed: int,
    *,
    stored: int | None = None,
    ratio: int = MAX_RATIO,
    argument: str | None = None,
) -> None:
    """Raise if a file claims to hold far more bytes than its own size can hold, even compressed.

    Parameters
    ----------
    path, what, argument
        As in :func:`reading`.
    claimed
        Bytes that the content would take in memory.
    stored
        Bytes of the file; None: its size on disk.
    ratio
        How many times the stored bytes the content may be, beyond a few dozen megabytes. No compression of zlib
        exceeds the default.
    """
    size = path.stat().st_size if stored is None else stored
    if claimed > FREE_BYTES + ratio * size:
        raise damaged(path, what, f"it claims {claimed:,} bytes of content in {size:,} bytes", argument)


def _of_libraries() -> Iterator[type[Exception]]:
    """Yield the errors of the libraries that are loaded."""
    for name in OF_LIBRARIES:
        module, _, attribute = name.rpartition(".")
        kind = getattr(sys.modules.get(module), attribute, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            yield kind
