"""Feature files that this package writes, in the layout of TRIDENT's and CLAM's."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from spade._version import __version__
from spade.core.files import write_atomically
from spade.io._feature_files import COORDS, FEATURES, GENES, OURS, FeatureFile


def write_feature_file(path: Path, content: FeatureFile) -> None:
    """Write a feature file, completely or not at all.

    Its facts and the version of this package become attributes of the file, and names of genes bytes of UTF-8.
    """

    def write(part: Path) -> None:
        with h5py.File(part, "w") as file:
            for name, value in {"version": __version__, **content.facts}.items():
                if value is not None:
                    file.attrs[f"{OURS}{name}"] = value
            file.create_dataset(FEATURES, data=content.features)
            if content.coords is not None:
                file.create_dataset(COORDS, data=content.coords)
            for name, values in content.further.items():
                file.create_dataset(name, data=np.char.encode(values, "utf-8") if name == GENES else values)
            for name, attributes in content.attributes.items():
                if name in file:
                    file[name].attrs.update(attributes)

    write_atomically(path, write)
