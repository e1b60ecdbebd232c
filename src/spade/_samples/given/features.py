"""A feature file as a sample: a table of width 0 with one row per patch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.sparse import csr_matrix
from spatialdata import SpatialData
from spatialdata.models import TableModel

from spade import _keys
from spade._samples.obs import largest_expert
from spade.io._cohort.places import Item, bare, feature_name, feature_path, is_features
from spade.io._feature_files import COORDS, FEATURES, GENES, FeatureFile, named_encoder, read_whole_file

#: Region and column of instances of the table; the shapes themselves are not in the file.
REGION, INSTANCE = "patches", "patch"
#: Arrays of files that ``tl.embed`` and ``tl.predict_expression`` write.
WEIGHTS, DEVIATION = "expert_weights", "deviation"
#: µm/px at a magnification of 1 ×, as far as objectives agree: scanners of "20 ×" have 0.45 to 0.55 µm/px.
UM_AT_1 = 10
#: Stems of keys by the kind of model that embedded.
STEMS = {"SpadeModel": _keys.STEM, "SealModel": _keys.SEAL, "ProgramModel": _keys.PROGRAMS}


def open_features(path: Path) -> SpatialData:
    """Return the object that a feature file stands for.

    ``obsm["features"]`` and ``["coords"]`` hold its arrays, ``uns["coords"]`` the attributes of the coordinates. What
    :func:`spade.tl.embed` or :func:`spade.tl.predict_expression` wrote is under the keys that they write into a table
    as well.
    """
    content = read_whole_file(path)
    n = len(content.features)
    obs = pd.DataFrame({"region": pd.Categorical([REGION] * n), INSTANCE: np.arange(n)}, index=np.arange(n).astype(str))
    table = AnnData(csr_matrix((n, 0), dtype=np.float32), obs=obs)
    table.obsm[FEATURES] = content.features
    if content.coords is not None:
        table.obsm[COORDS] = content.coords
        table.uns[COORDS] = content.attributes.get(COORDS, {})
    _check_results(content, path)
    _write_record(table, content)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The table is annotating")  # there are no shapes
        parsed = TableModel.parse(table, region=REGION, region_key="region", instance_key=INSTANCE)
        return SpatialData(tables={_keys.TABLE: parsed})


def _write_record(table: AnnData, content: FeatureFile) -> None:
    """Write where the features come from, and results of this package under their own keys."""
    facts: dict[str, Any] = {"function": _keys.FEATURE_FILE} | content.facts
    facts.pop("version", None)
    if facts["function"] == _keys.FEATURE_FILE:
        _keys.write_provenance(
            table.uns, FEATURES, **facts, encoder=named_encoder(content), about_um=_about_um(content)
        )
        return
    _keys.write_provenance(table.uns, FEATURES, **facts)
    if facts["function"] == "tl.predict_expression" and GENES in content.further:
        key = _keys.PREDICTED
        table.obsm[_keys.predicted(key)] = content.features
        table.uns[_keys.predicted_genes(key)] = np.char.decode(content.further[GENES], "utf-8")
        if DEVIATION in content.further:
            table.obsm[_keys.predicted_deviation(key)] = content.further[DEVIATION]
        _keys.write_provenance(table.uns, _keys.predicted(key), **facts)
    elif facts["function"] == "tl.embed" and (stem := STEMS.get(str(facts.get("model")))):
        table.obsm[_keys.joint(stem)] = content.features
        _keys.write_provenance(table.uns, _keys.joint(stem), **facts)
        if WEIGHTS in content.further:
            weights = content.further[WEIGHTS]
            table.obsm[_keys.weights(stem)] = weights
            table.obs[_keys.expert(stem)] = largest_expert(weights)
            _keys.write_provenance(table.uns, _keys.expert(stem), _keys.joint(stem), function="tl.embed")


def _check_results(content: FeatureFile, path: Path) -> None:
    """Raise if arrays beside the features are not as this package writes them."""
    if not content.facts:
        return
    n, d = content.features.shape
    genes, weights = content.further.get(GENES), content.further.get(WEIGHTS)
    deviation = content.further.get(DEVIATION)
    fits = {
        GENES: genes is None or (genes.shape == (d,) and genes.dtype.kind == "S"),
        WEIGHTS: weights is None or (weights.ndim == 2 and weights.shape[0] == n and weights.dtype.kind == "f"),
        DEVIATION: deviation is None or (deviation.shape == (n, d) and deviation.dtype.kind == "f"),
    }
    if wrong := [name for name, fit in fits.items() if not fit]:
        raise ValueError(
            f"slide {path.stem!r}: {str(path)!r}: {wrong[0]!r} does not fit features of shape {(n, d)}. Write the file "
            "again."
        )


def _about_um(content: FeatureFile) -> float | None:
    """Return the width of a patch in µm, from its pixels and the magnification that it was read at."""
    given = content.attributes.get(COORDS, {})
    try:
        px, magnification = float(given["patch_size"]), float(given["target_magnification"])
    except (KeyError, TypeError, ValueError):
        return None
    return px * UM_AT_1 / magnification if 0 < px < math.inf and 0 < magnification < math.inf else None


def check_features(items: Sequence[Item], argument: str, *, writes: bool) -> None:
    """Raise if feature files stand beside other samples, share a name, or would have to be written."""
    files = [item for item in items if is_features(item)]
    if 0 < len(files) < len(items):
        raise ValueError(
            f"{argument}: {len(files)} of {len(items)} items are feature files and the others are not. Pass one or the "
            "other."
        )
    if files and writes:
        raise ValueError(
            f"{argument}: {str(bare(files[0]))!r} is a feature file, and this function writes into its samples, but "
            "feature files are only read: sp.tl.embed, predict_expression and attention write new ones (out=), all "
            "else needs the patches on their slide: sp.io.from_trident(slide, file)."
        )
    first: dict[str, Path] = {}
    for item in files:
        path, name = feature_path(item), feature_name(item)
        if name in first:
            raise ValueError(
                f"{argument}: two files of slide {name!r}, {str(first[name])!r} and {str(path)!r}. Keep one, or give "
                "them names in a sample sheet."
            )
        first[name] = path
