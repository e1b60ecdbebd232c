"""Every storage key of the package, in one place."""

from __future__ import annotations

import json
import re
from collections.abc import MutableMapping
from typing import Any, NotRequired, TypedDict

from spade._version import __version__
from spade.core.checks import check_text
from spade.core.files import digest

#: Entry of ``uns`` that holds provenance, one :class:`Record` per written key, and of ``attrs`` about the section.
UNS = "spade"
#: Entry of ``attrs`` that every saving renews, so that a store that has changed since it was read is recognised.
REVISION = "spade_revision"
PATCHES = "patches"
TABLE = "table"
TISSUE = "tissue"
TILES = "tiles"
BINS = "bins"
#: ``obs`` column with the share of a tile that is tissue.
TISSUE_SHARE = "tissue_share"
VALID = "spade_valid"
#: ``obs`` columns with the place of a spot or bin as Space Ranger counts it.
ARRAY = ["array_row", "array_col"]
STEM = "spade"
SEAL = "seal"
PROGRAMS = "programs"
MARKERS = "rank_expert_genes"
PREDICTED = "predicted"
SMOOTHED = "smoothed"
#: ``var`` column with the names of genes before all samples got one naming, and the record of that.
HARMONIZED = "harmonized_from"
PATHWAYS = "pathways"
#: In the place of a function: the features are in a file of another program.
FEATURE_FILE = "feature file"
#: Functions that write features of an encoder, in their records.
ENCODING = ("pp.encode_patches", "io.from_lazyslide", "io.from_sopa", "io.from_trident", FEATURE_FILE)
#: Function that wrote a layer of smoothed counts, in its record.
SMOOTHING = "pp.smooth_expression"
#: Function that wrote scores of gene sets, in their record.
PATHWAY_SCORING = "tl.pathway_scores"
#: Function that drew an image of values, in its record: such an image is no picture of tissue.
SCORE_IMAGE = "tl.score_image"

#: What the keys of further values of a result end in, beside the key that has its record.
PARTS = ("_image", "_expression", "_deviation", "_uncertainty", "_probability", "_predicted")
TRAIN, VAL, TEST, GUARD = "train", "val", "test", "guard"


class RegionRecord(TypedDict):
    """Where the patches of one region lie."""

    #: Shapes element of the patches.
    element: str
    image: str
    coordinate_system: str
    mpp: float
    #: Of patches around spots; tiles have none.
    spot_diameter_um: NotRequired[float]
    #: Size and transformation of the image when the patches were made.
    frame: dict[str, Any]
    #: Of patches around spots: tells their places from others.
    places: NotRequired[str]


class Record(TypedDict, total=False):
    """Provenance of what was written under a key; functions add settings of their own, such as ``n_genes``.

    It is in ``uns`` of a table, that of tissue outlines in ``attrs`` of the object.
    """

    version: str
    #: Digest of all facts and of ``sources``.
    id: str
    #: Records that the value was made from, and their ids at that time.
    sources: dict[str, str]
    #: Of features of a store: digest of the encoding, of the files of the image, and of the values.
    stamp: str
    function: str
    #: Of features and embeddings.
    use_rep: str
    encoder: str
    encoder_id: str
    model: str
    model_id: str
    mix: str
    #: Of predicted programs, which are the last columns.
    n_programs: int
    seed: int
    #: Of patches, and of features made from them.
    patches_key: str
    size_um: float
    size_px: int
    input_px: int
    regions: dict[str, RegionRecord]
    #: Of features of stain-normalised patches: the method and the id of the colours, and the slide that has these.
    colour: str
    colour_reference: str
    #: Of tissue outlines and tiles.
    image: str
    outlines: str
    tissue_key: str
    min_tissue: float
    overlap_um: float
    #: Of context features and smoothed expression.
    radius_um: float
    #: Of gene panels and predicted expression.
    fold_case: bool
    target_sum: float
    scale: str
    #: Of scores of predicted expression: the stem of the prediction.
    predicted: str
    #: Of UMAP: digest of all rows of all samples that it was computed of.
    rows_id: str
    #: Of images of values.
    color: str
    um_per_px: float
    #: Of attention.
    label_key: str
    slide_key: str


def gene(stem: str) -> str:
    """``var`` key of the gene panel."""
    return f"{stem}_gene"


def tile_table(tiles: str) -> str:
    """Name of the table of tiles: no two elements of an object have one name."""
    return f"{tiles}_table"


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


def logits(stem: str) -> str:
    """``obsm`` key of the logits of a learned gate."""
    return f"{stem}_expert_logits"


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


def umap(use_rep: str) -> str:
    """``obsm`` key of the UMAP of a representation."""
    return f"{use_rep}_umap"


def predicted(stem: str) -> str:
    """``obsm`` key of predicted expression."""
    return f"X_{stem}"


def predicted_deviation(stem: str) -> str:
    """``obsm`` key of the uncertainty of predicted expression."""
    return f"X_{stem}_deviation"


def predicted_genes(stem: str) -> str:
    """``uns`` key of the genes in the columns of predicted expression."""
    return f"{stem}_genes"


def pathway_names(key: str) -> str:
    """``uns`` key of the pathways in the columns of scores."""
    return f"{key}_names"


def features(encoder: str) -> str:
    """``obsm`` key of the features of an encoder, with only characters that a zarr store accepts."""
    return f"X_{storable(encoder.removeprefix('hf-hub:'))}"


def storable(name: str) -> str:
    """Return the name that a zarr store accepts in place of ``name``; empty if nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name).strip("_.-")


def check_key(key: str, argument: str = "key_added") -> str:
    """Return ``key`` if a zarr store accepts it as a name, else raise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", check_text(argument, key)):
        raise ValueError(
            f"{argument}={key!r} cannot be stored: a key has letters, digits and '_', '.', '-' and starts with a "
            f"letter or digit. Try {storable(key) or STEM!r}."
        )
    return key


def check_uns_key(key: str) -> str:
    """Return ``key`` if a result may be stored as ``uns[key]``, else raise."""
    if check_key(key) in (UNS, "spatialdata_attrs"):
        raise ValueError(f"key_added={key!r} is the key of records about the object; choose another name.")
    return key


def write_provenance(
    uns: MutableMapping[str, Any], key: str, *made_from: str, stamp: object = None, **facts: object
) -> None:
    """Write one record under ``uns["spade"][key]``; facts that are None are left out.

    The record has an id of its facts, and the ids of the records that the value was made from: those of ``use_rep``,
    ``patches_key`` and further keys (``made_from``). :func:`outdated` compares them with the records as they are later.
    A ``stamp`` tells this very writing from others, so it is no part of the id.
    """
    known = {name: value for name, value in facts.items() if value is not None}
    read = [*str(known.get("use_rep", "")).split(" + "), str(known.get("patches_key", ""))]
    sources = {source: record_id(uns, source) for source in read if source in uns.get(UNS, {})}
    sources |= {source: record_id(uns, source) for source in made_from}
    sources.pop(key, None)
    identity = digest(json.dumps([known, sources], sort_keys=True, default=str))
    record: dict[str, object] = {"version": __version__, "id": identity, **known}
    if sources:
        record["sources"] = sources
    if stamp is not None:
        record["stamp"] = stamp
    uns[UNS] = {**uns.get(UNS, {}), key: record}


def write_parts(uns: MutableMapping[str, Any], key: str, *parts: str) -> None:
    """Write records of what the call that wrote ``key`` wrote beside it, so that it is outdated when ``key`` is."""
    for part in parts:
        write_provenance(uns, part, key, function=read_provenance(uns, key).get("function"))


def check_parts(uns: MutableMapping[str, Any], sample: str, stem: str, function: str, *written: str) -> None:
    """Raise if a call would replace what another function, or the same one under another stem, wrote.

    The first key ``written`` has the record of the call, the others are parts, whose records name it as a source.
    """
    main, *parts = written
    records = {key: record for key in written if (record := read_provenance(uns, key))}
    of_others = [key for key, record in records.items() if record.get("function") != function]
    for key in (part for part in parts if part in records):
        whole = "model_id" in records[key] or "label_key" in records[key]  # early records of parts have no sources
        if main not in records[key].get("sources", {} if whole else {main: ""}):
            of_others.append(key)
    wholes = records.get(main, {}).get("sources", {})
    of_others += [main for whole in wholes if main.startswith(whole) and main.removeprefix(whole) in PARTS]
    if of_others:
        there = records[of_others[0]].get("function", "")
        raise ValueError(
            f"{sample}: key_added={stem!r} would replace {of_others[0]!r}, which sp.{there} wrote as another result. "
            "Choose another name with key_added=, or remove that first."
        )


def record_id(uns: MutableMapping[str, Any], key: str) -> str:
    """Return the id of a record, ``""`` if there is none (or an early one without an id)."""
    return str(uns.get(UNS, {}).get(key, {}).get("id", ""))


def outdated(uns: MutableMapping[str, Any], key: str) -> tuple[str, str] | None:
    """Return a value and its source that was written anew since; None if ``key`` and all it was made from are current.

    A source whose record is gone is not compared.
    """
    for source, identity in read_provenance(uns, key).get("sources", {}).items():
        current = record_id(uns, source)
        if current and current != str(identity):
            return key, source
        if (earlier := outdated(uns, source)) is not None:
            return earlier
    return None


def made_from(uns: MutableMapping[str, Any], key: str) -> set[str]:
    """Return all keys that a value was made from, directly or through others, as far as records tell."""
    found: set[str] = set()
    left = [key]
    while left:
        record = read_provenance(uns, left.pop())
        more = {*record.get("sources", {}), *str(record.get("use_rep", "")).split(" + ")} - found - {""}
        found |= more
        left += more
    return found


def forget_provenance(uns: MutableMapping[str, Any], key: str) -> None:
    """Remove the record of ``key``, whose values are replaced."""
    if key in uns.get(UNS, {}):
        uns[UNS] = {name: record for name, record in uns[UNS].items() if name != key}


def read_provenance(uns: MutableMapping[str, Any], key: str) -> Record:
    """Return a copy of the record of ``key``, empty if this package did not write it."""
    record: Record = uns.get(UNS, {}).get(key, {})
    return record.copy()
