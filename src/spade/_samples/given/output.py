"""Folders of feature files that are made of feature files, one per slide."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spade._said.lines import size, wrote
from spade._samples.sample import Sample
from spade.core.checks import check_path
from spade.io._cohort.places import Item, bare, feature_name, feature_path, is_features
from spade.io._feature_files import (
    COORDS,
    FEATURES,
    SUFFIXES,
    FeatureFile,
    feature_facts,
    feature_shape,
    features_digest,
)
from spade.io._files.features import write_feature_file
from spade.io._store import is_store

logger = logging.getLogger("spade")
#: The suffix of files that are written.
SUFFIX = ".h5"


def check_out(samples: Sequence[Item], out: str | PathLike[str] | None) -> Path | None:
    """Return the folder for results of feature files; None for other samples, which hold their results themselves."""
    if not is_features(samples[0]):
        if out is not None:
            raise ValueError(
                f"out={str(out)!r} is the folder for results of feature files; those of a SpatialData are written into "
                "it, or into its store. Leave out= out."
            )
        return None
    if out is None:
        raise ValueError(
            f"out=None: {str(bare(samples[0]))!r} is a feature file, which is never changed; name a folder for the "
            "results, such as out='results'."
        )
    folder = check_path("out", out)
    if folder.suffix.lower() in SUFFIXES or folder.suffix == ".zarr" or is_store(folder):
        raise ValueError(f"out={str(folder)!r}: expected a folder, in which every slide gets a file.")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"out={str(folder)!r} is a file; expected a folder, in which every slide gets a file.")
    return folder


@dataclass(frozen=True)
class FeatureOutput:
    """What is written of feature files.

    Attributes
    ----------
    folder
        Folder of the files.
    facts
        What they are made with: the function, the model and all settings; a file of other facts is never replaced.
    """

    folder: Path
    facts: Mapping[str, object]

    def pending(self, samples: Sequence[Item]) -> list[Item]:
        """Return the samples that have no file yet; raise if a file is there that this call would not have written."""
        pending = []
        for item in samples:
            path = self._path(feature_name(item))
            if not path.exists():
                pending.append(item)
            elif path.resolve() == feature_path(item).resolve():
                raise ValueError(f"out={str(self.folder)!r} is the folder of the feature files; choose another.")
            else:
                self._check_same(path, item)
        if len(pending) < len(samples):
            logger.info("%d of %d slides are done already", len(samples) - len(pending), len(samples))
        self.folder.mkdir(parents=True, exist_ok=True)
        return pending

    def _path(self, name: str) -> Path:
        """Return the file of a sample, whose name must be one of a file."""
        if Path(name).name != name or name.startswith(".") or "\0" in name:
            raise ValueError(f"samples: the name {name!r} cannot be that of a file in out=. Give the slide another.")
        return self.folder / f"{name}{SUFFIX}"

    def write(self, sample: Sample, features: NDArray[np.floating], further: Mapping[str, NDArray[Any]]) -> None:
        """Write the features made of a sample ``(n, d)``, and further arrays, beside its coordinates."""
        if sample.file is None:
            raise ValueError(f"{sample.name} is not a feature file.")
        path, table = self._path(sample.name), sample.table
        facts = {**self.facts, **self._facts_of(sample.file)}
        attributes = {FEATURES: {"name": sample.name}, COORDS: table.uns.get(COORDS, {})}
        content = FeatureFile(
            np.asarray(features, np.float32), table.obsm.get(COORDS), attributes, dict(further), facts
        )
        write_feature_file(path, content)
        wrote(sample.name, path.name, detail=f"{path}, {size(features)}")

    @staticmethod
    def _facts_of(path: Path) -> dict[str, str]:
        return {"source": path.name, "source_id": features_digest(path)}

    def _check_same(self, path: Path, item: Item) -> None:
        """Raise unless a file is complete, and was made of the same features with the same facts."""
        source = feature_path(item)
        there = feature_facts(path)
        there.pop("version", None)
        wanted = {name: value for name, value in {**self.facts, **self._facts_of(source)}.items() if value is not None}
        differing = [name for name in sorted(there.keys() | wanted) if str(there.get(name)) != str(wanted.get(name))]
        if differing or feature_shape(path)[0] != feature_shape(source)[0]:
            name = next(iter(differing), "n")
            says = f": {name} is {there.get(name)!r} instead of {wanted.get(name)!r}" if there and differing else ""
            alone = not {*differing} - {"source", "source_id"}
            raise ValueError(
                f"out={str(self.folder)!r}: {path.name!r} is there, and was not written by this call{says}. Choose "
                f"another folder, or remove {'the file' if alone else 'all files of the earlier call'}."
            )
