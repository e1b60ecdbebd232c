"""The version of the package."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("spade-st")
except PackageNotFoundError:  # run from a source tree that is not installed, as on a bare GPU machine
    __version__ = "0+source"
