"""Every storage key of the package, in one place."""

from __future__ import annotations

import re
from typing import Any

from spade._version import __version__
from spade.core.checks import check_text

#: ``uns`` and ``attrs`` entry that holds provenance, one flat dict per written key.
UNS = "spade"
PATCHES = "patches"
TABLE = "table"
VALID = "spade_valid"
STEM = "spade"
SEAL = "seal"
MARKERS = "rank_expert_genes"
PREDICTED = "predicted"
SMOOTHED = "smoothed"
#: Function that the record of a layer of smoothed counts names.
SMOOTHING = "pp.smooth_expression"

TRAIN, VAL, TEST, GUARD = "train", "val", "test", "guard"


def gene(stem: str) -> str:
    """``var`` key of the gene panel."""
    return f"{stem}_gene"


def split(stem: str) -> str:
    """``obs`` key of the split."""
    return f"{stem}_split"


def prototype(stem: str) -> str:
    """``obs`` key of the fine cluster."""
    return f"{stem}_prototype"


def cluster(stem: str) -> str:
    """``obs`` key of the coarse cluster."""
    return f"{stem}_cluster"


def expert(stem: str) -> str:
    """``obs`` key of the expert with the largest weight."""
    return f"{stem}_expert"


def weights(stem: str) -> str:
    """``obsm`` key of the routing weights."""
    return f"{stem}_expert_weights"


def entropy(stem: str) -> str:
    """``obs`` key of the entropy of the routing weights."""
    return f"{stem}_entropy"


def distance(stem: str) -> str:
    """``obs`` key of the distance to the nearest prototype."""
    return f"{stem}_distance"


def joint(stem: str) -> str:
    """``obsm`` key of the joint embedding."""
    return f"X_{stem}"


def image(stem: str) -> str:
    """``obsm`` key of the image side of the joint embedding."""
    return f"X_{stem}_image"


def expression(stem: str) -> str:
    """``obsm`` key of the expression side of the joint embedding."""
    return f"X_{stem}_expression"


def predicted(stem: str) -> str:
    """``obsm`` key of predicted expression."""
    return f"X_{stem}"


def predicted_deviation(stem: str) -> str:
    """``obsm`` key of the uncertainty of predicted expression."""
    return f"X_{stem}_deviation"


def predicted_genes(stem: str) -> str:
    """``uns`` key of the genes that the columns of predicted expression stand for."""
    return f"{stem}_genes"


def features(encoder: str) -> str:
    """``obsm`` key of the features of an encoder, made legal for a zarr store."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", encoder.removeprefix("hf-hub:")).strip("_.-")
    return f"X_{name}"


def check_key(key: str, argument: str = "key_added") -> str:
    """Return ``key`` if a zarr store takes it as a name, else raise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", check_text(argument, key)):
        raise ValueError(
            f"{argument}={key!r} cannot be stored: a key has letters, digits and '_', '.', '-' and starts with a "
            f"letter or digit. Try {re.sub(r'[^A-Za-z0-9_.-]+', '_', key).strip('_.-') or STEM!r}."
        )
    return key


def check_uns_key(key: str) -> str:
    """Return ``key`` if a result may be stored as ``uns[key]``, else raise."""
    if check_key(key) in (UNS, "spatialdata_attrs"):
        raise ValueError(f"key_added={key!r} is where records of the object are kept; choose another name.")
    return key


def write_provenance(uns: Any, key: str, **facts: Any) -> None:
    """Write one flat record under ``uns["spade"][key]``; facts that are None are left out."""
    record: dict[str, Any] = {"version": __version__}
    record.update({name: value for name, value in facts.items() if value is not None})
    uns[UNS] = {**uns.get(UNS, {}), key: record}


def forget_provenance(uns: Any, key: str) -> None:
    """Take the record of ``key`` away, whose values are replaced by others."""
    if key in uns.get(UNS, {}):
        uns[UNS] = {name: record for name, record in uns[UNS].items() if name != key}


def read_provenance(uns: Any, key: str) -> dict[str, Any]:
    """Return the record of ``key``, empty if this package did not write it."""
    return dict(uns.get(UNS, {}).get(key, {}))
