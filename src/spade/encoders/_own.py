"""Networks and functions of the user's own, tried on one patch before they are used."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade.core.files import digest
from spade.encoders._network import ID_DIGITS, NetworkEncoder, as_float32, black_patch, check_patches, identity
from spade.encoders._output import check_features

#: Where a value is in memory, in what is written of it.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
#: What goes wrong inside a network or function that gets what it does not expect.
FAILURES = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class WrappedNetwork(NetworkEncoder):
    """A network of the user's own."""

    def _identity(self) -> str:
        """Return an id of the weights, and of all else that changes the features, as it is written."""
        moments = [[float(value) for value in values] for values in self.moments]
        made = f"{self.input_px} {moments if self.transform is None else _written(self.transform)}"
        return digest(f"{identity(self.model)} {made} {_written(self.model)}")[:ID_DIGITS]

    def _probe(self) -> Any:
        try:
            return super()._probe()
        except FAILURES as error:
            raise _failed(self, "a network gets (n, 3, h, w), float32 and normalised", error) from error


class WrappedFunction:
    """A function of the user's own, for patches or for tensors that a transform made of them."""

    def __init__(
        self,
        function: Callable[[Any], Any],
        *,
        name: str,
        id: str | None,
        module: str,
        input_px: int | None,
        mpp: float | None,
        transform: Callable[[Any], Any] | None,
    ) -> None:
        self.function, self.name = function, name
        self.input_px, self.mpp, self.transform = input_px, mpp, transform
        self.id = self._identity(module) if id is None else id
        try:
            features = self.encode(black_patch(input_px), 0.5)
        except FAILURES as error:
            made = "what transform= made, stacked" if transform else "uint8 patches (n, px, px, 3)"
            raise _failed(self, f"a function gets {made}", error) from error
        self.dim = check_features(self, features, 1).shape[1]

    def _identity(self, module: str) -> str:
        """Return module and name and, where more than a function changes the features, a digest of what is written."""
        further = [] if isinstance(self.function, FunctionType) else [_written(self.function)]
        further += [str(value) for value in (self.input_px,) if value is not None]
        further += [_written(self.transform)] if self.transform is not None else []
        return f"{module}.{self.name}{f' {digest(str(further))[:ID_DIGITS]}' if further else ''}"

    def encode(self, patches: NDArray[np.uint8], mpp: float) -> NDArray[np.float32]:
        """Encode uint8 ``(n, px, px, 3)`` patches."""
        check_patches(self, patches)
        if self.transform is None:
            return as_float32(self.function(patches))
        import torch
        from PIL import Image

        return as_float32(self.function(torch.stack([self.transform(Image.fromarray(patch)) for patch in patches])))


def _written(value: object) -> str:
    """Return what Python writes of a network, transform or function, without its address in memory."""
    return ADDRESS.sub("", repr(value))


def _failed(encoder: Any, gets: str, error: Exception) -> TypeError:
    """Return the error of an encoder that could not encode one patch."""
    first = str(error).partition("\n")[0]
    return TypeError(
        f"encoder {encoder.name!r} cannot encode one black patch ({type(error).__name__}: {first}): {gets}. Give what "
        "it needs with sp.encoders.wrap(..., input_px=, mean=, std= or transform=)."
    )
