"""Which channels of an image are colours."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xarray import DataArray

#: Names of channels that are red, green and blue (and opacity), in any order. Numbers are what unnamed channels get.
RGB_NAMES = (("r", "g", "b", "a"), ("red", "green", "blue", "alpha"), ("0", "1", "2"))


def channel_names(array: DataArray) -> list[str]:
    """Return the names of the channels, numbers if they have none."""
    names = array.coords["c"].values if "c" in array.coords else range(array.sizes["c"])
    return [str(name) for name in names]


def rgb_channels(array: DataArray) -> list[int]:
    """Return the positions of red, green and blue (and of opacity, if there is one); empty if there are no colours."""
    names = [name.lower() for name in channel_names(array)]
    for colours in RGB_NAMES:
        if len(names) in (3, len(colours)) and set(names) == set(colours[: len(names)]):
            return [names.index(colour) for colour in colours[: len(names)]]
    return []
