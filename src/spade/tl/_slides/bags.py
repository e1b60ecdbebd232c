"""Bags of patches, one per slide: described first, then read one at a time, from samples or feature files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
import zarr
from numpy.typing import NDArray
from spatialdata import SpatialData

from spade import _keys
from spade._checks import shorten
from spade._samples.features import is_image_features, read_features
from spade._samples.given.encoder_names import known_encoder
from spade._samples.given.features import open_features
from spade._samples.given.origins import Origins
from spade._samples.obs import group_labels, value_strings
from spade._samples.open import Item, Samples, as_list, iter_samples
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Rows
from spade.core.checks import check_ordered, check_path, check_text
from spade.io._cohort.places import NamedSample, feature_name, feature_path, is_features
from spade.io._feature_files import feature_origin, feature_shape, find_feature_files, read_feature_file
from spade.io._files.matrices import to_dense
from spade.io._label_table import SAMPLE, SPOT, check_label_table
from spade.io._store import is_store
from spade.tl._slides.columns import ColumnKind, column_kind, joined_kind

logger = logging.getLogger("spade")
Files: TypeAlias = str | PathLike[str] | Iterable[str | PathLike[str]] | Mapping[str, Path]
BagSource: TypeAlias = Samples | Files | Mapping[str, Files]
Block = NDArray[np.float32]
Reader: TypeAlias = Callable[[], Block]
#: What to do if the column of an argument is missing.
ADVICE = {"groupby": " Pass groupby=None if every slide is of another patient."}


@dataclass(frozen=True)
class Bags:
    """Slides and how to read them.

    Attributes
    ----------
    names
        Names of the slides.
    blocks
        Blocks of every representation: their widths, and whether an encoder wrote them.
    facts
        Values per slide by the argument that named their column: strings, ``""`` where missing.
    kinds
        What the types of these columns say of the values.
    places
        Sample (its number) and rows of the table of every slide, also if bags are of patients; empty for feature files.
    readers
        For every representation, a function per slide that reads its patches.
    n_rows
        For every representation, the number of patches of every slide, those without features too.
    """

    names: list[str]
    blocks: dict[str, list[tuple[int, bool]]]
    facts: dict[str, NDArray[np.object_]]
    kinds: dict[str, ColumnKind]
    places: list[tuple[int, Rows]]
    readers: dict[str, list[Reader]]
    n_rows: dict[str, list[int]]

    def __len__(self) -> int:
        return len(self.names)

    @property
    def widths(self) -> dict[str, int]:
        """Number of features of every representation."""
        return {name: sum(width for width, _ in blocks) for name, blocks in self.blocks.items()}

    def read(self, i: int, name: str) -> Block:
        """Read the patches of slide ``i`` in one representation, ``(n, d)`` finite float32 with n > 0."""
        return self.readers[name][i]()


def read_bags(
    bags: BagSource,
    *,
    named: Mapping[str, tuple[str, ...]] | None,
    columns: Mapping[str, str | None],
    labels: pd.DataFrame | None = None,
    slide_key: str | None = None,
    table_key: str | None = None,
    optional: Collection[str] = (),
    argument: str = "bags",
    opened: bool = False,
) -> Bags:
    """Describe the slides of samples or feature files.

    Parameters
    ----------
    bags
        Samples; or a folder or list of feature files; or a dict of these, one entry per representation.
    named
        Name and ``obsm`` keys of the representations of samples; None for feature files.
    columns
        Column by the argument that names it, such as ``"label_key"``; None: not wanted.
    labels
        Table with a column ``sample`` and the columns asked for; None: they are in ``obs``.
    slide_key
        ``obs`` column that names the slide; None: every section is one.
    table_key
        Table; may be left out when there is one.
    optional
        Arguments whose column some of the samples may lack.
    argument
        What messages call ``bags``.
    opened
        Whether feature files are opened as samples, for the arrays that :func:`~spade.tl.embed` wrote beside features.
    """
    wanted = {name: check_text(name, column) for name, column in columns.items() if column is not None}
    check_ordered(argument, bags)
    if isinstance(bags, Iterable) and not isinstance(bags, (str, PathLike, Mapping, SpatialData, pd.DataFrame)):
        bags = list(bags)  # an iterator can be read only once
    files, described_by = _as_files(bags, argument)
    labels = described_by if labels is None else labels
    if files is None or opened:
        if named is None:
            raise ValueError(
                "use_rep=None: samples need the obsm key of a representation; only feature files have none."
            )
        in_obs = {} if labels is not None else wanted
        described = _of_samples(as_list(bags, argument), named, in_obs, slide_key, table_key, optional)
    else:
        for name, given in (("use_rep", named), ("slide_key", slide_key), ("table_key", table_key)):
            if given is not None:
                raise ValueError(
                    f"{name}= has no meaning for feature files: each is a slide in one representation. Leave it out; "
                    "for several representations pass a dict of folders."
                )
        if labels is None and wanted:
            raise ValueError(
                "labels=None: feature files have no labels of their own. Pass a table with a column 'sample' that "
                "holds their names without suffix, such as sp.io.read_annotations returns."
            )
        described = _of_files(files, argument)
    return described if labels is None else _labelled(described, labels, wanted)


def _as_files(bags: BagSource, argument: str) -> tuple[Mapping[str, Files] | None, pd.DataFrame | None]:
    """Return feature files by representation, or None if these are samples, and labels from a sample sheet."""
    if isinstance(bags, SpatialData):
        return None, None
    if isinstance(bags, Mapping):
        if not bags:
            raise ValueError(f"{argument} is empty; expected one folder or list of feature files per representation.")
        if all(_is_sample(value, argument) for value in bags.values()):
            return None, None
        for name, source in bags.items():
            if not isinstance(source, (str, PathLike)) and (
                isinstance(source, Mapping) or not isinstance(source, Iterable)
            ):
                raise TypeError(
                    f"{argument}[{name!r}]: got {type(source).__name__}; expected a folder or a list of feature files, "
                    "or samples throughout."
                )
        return bags, None
    items = as_list(bags, argument)
    if not is_features(items[0]):
        return None, None
    named = {feature_name(item): item for item in items}
    columns = {name: dict(item.columns) for name, item in named.items() if isinstance(item, NamedSample)}
    sheet = pd.DataFrame.from_dict(columns, orient="index").rename_axis(SAMPLE).reset_index() if columns else None
    files = {name: feature_path(item) for name, item in named.items()}
    return {"features": files}, sheet if sheet is not None and len(sheet.columns) > 1 else None


def _is_sample(value: object, argument: str) -> bool:
    """Whether a value of a dict is a sample, opened or as a store, rather than feature files."""
    if isinstance(value, (str, PathLike)):
        path = check_path(argument, value)
        return path.suffix == ".zarr" or is_store(path)
    return isinstance(value, SpatialData)


def _of_files(files: Mapping[str, Files], argument: str) -> Bags:
    """Feature files, matched by name between representations; only shapes are read."""
    paths = {name: find_feature_files(source, f"{argument}[{name!r}]") for name, source in files.items()}
    first = next(iter(paths))
    names = list(paths[first])
    for name, path_of in paths.items():
        if lacking := set(names) ^ set(path_of):
            raise ValueError(
                f"{argument}: {first!r} and {name!r} differ in their slides; only one of them has "
                f"{shorten(sorted(lacking))}. Encode these, or take them out of the other."
            )
    shapes = {name: {slide: feature_shape(path) for slide, path in path_of.items()} for name, path_of in paths.items()}
    widths = {
        name: _one_width({slide: width for slide, (_, width) in shape_of.items()}, name)
        for name, shape_of in shapes.items()
    }
    for name, path_of in paths.items():
        _check_one_origin(path_of, name)
    n_rows = {name: [shape_of[slide][0] for slide in names] for name, shape_of in shapes.items()}
    readers: dict[str, list[Reader]] = {
        name: [partial(read_feature_file, path_of[slide]) for slide in names] for name, path_of in paths.items()
    }
    return Bags(names, {name: [(width, True)] for name, width in widths.items()}, {}, {}, [], readers, n_rows)


def _of_samples(
    items: list[Item],
    named: Mapping[str, tuple[str, ...]],
    wanted: Mapping[str, str],
    slide_key: str | None,
    table_key: str | None,
    optional: Collection[str],
) -> Bags:
    """Slides of samples; those in memory stay there, and stores are read again, slide by slide."""
    names: list[str] = []
    facts: dict[str, list[str]] = {argument: [] for argument in wanted}
    kinds: dict[str, list[ColumnKind | None]] = {argument: [] for argument in wanted}
    places: list[tuple[int, Rows]] = []
    readers: dict[str, list[Reader]] = {name: [] for name in named}
    widths: dict[str, dict[str, int]] = {key: {} for keys in named.values() for key in keys}
    of_encoder: dict[str, bool] = {}
    origins = Origins()
    n_left_out = 0
    n_rows: list[int] = []
    lacking: list[dict[str, str]] = []
    for number, sample in enumerate(iter_samples(items, table_key=table_key)):
        lacking.append(_lacking(sample, wanted, optional))
        for argument, column in wanted.items():
            if column in sample.table.obs:
                kinds[argument].append(column_kind(sample.table.obs[column]))
        slide_of_row = group_labels(sample, slide_key, "slide_key")
        slides = list(dict.fromkeys(slide_of_row.tolist()))
        check_names([*names, *slides], "slides")
        complete, width = _complete_rows(sample, widths)
        for key in widths:
            origins.check(sample, key)
        of_encoder |= {key: is_image_features(sample, key) for key in widths}
        n_left_out += int((~complete).sum())
        source = sample.file or (sample.table if sample.path is None else (sample.path, sample.table_key))
        for slide in slides:
            of_slide = slide_of_row == slide
            rows = np.flatnonzero(of_slide & complete)
            if not len(rows):
                raise ValueError(
                    f"slide {slide!r}: none of its {int(of_slide.sum())} patches has every representation asked for "
                    f"({shorten(width)}). Look at sp.pl.patches, or leave the slide out."
                )
            places.append((number, rows))
            n_rows.append(int(of_slide.sum()))
            for key in widths:
                widths[key][slide] = width[key]
            for argument, column in wanted.items():
                facts[argument].append(_value_of_slide(sample, argument, column, slide, of_slide))
            for name, keys in named.items():
                readers[name].append(partial(_read_rows, source, keys, rows))
        names += slides
    for argument, message in lacking[0].items():
        if all(argument in of_sample for of_sample in lacking):
            raise KeyError(message)
    if n_left_out:
        logger.info("%d patches without a representation are not used", n_left_out)
    one_width = {key: _one_width(width_of, key) for key, width_of in widths.items()}
    return Bags(
        names,
        {name: [(one_width[key], of_encoder[key]) for key in keys] for name, keys in named.items()},
        {argument: np.array(values, dtype=object) for argument, values in facts.items()},
        {argument: joined_kind(of_samples) for argument, of_samples in kinds.items()},
        places,
        readers,
        dict.fromkeys(named, n_rows),
    )


def _complete_rows(sample: Sample, keys: Iterable[str]) -> tuple[NDArray[np.bool_], dict[str, int]]:
    """Return which rows have features under all keys, and the width of each."""
    complete, width = np.ones(sample.table.n_obs, dtype=bool), {}
    for key in keys:
        block = read_features(sample, key)
        complete &= ~np.isnan(block).any(1)
        width[key] = block.shape[1]
    return complete, width


def _lacking(sample: Sample, wanted: Mapping[str, str], optional: Collection[str]) -> dict[str, str]:
    """Raise if a sample lacks a column; for optional ones, return what to say if all samples do."""
    messages = {}
    for argument, column in wanted.items():
        if column not in sample.table.obs:
            message = (
                f"{sample.name}: {argument}={column!r} is not in obs; columns: {shorten(sample.table.obs.columns, 20)}."
                f"{ADVICE.get(argument, '')}"
            )
            if argument not in optional:
                raise KeyError(message)
            messages[argument] = message
    return messages


def _read_rows(source: ad.AnnData | tuple[Path, str] | Path, keys: tuple[str, ...], rows: Rows) -> Block:
    """Read and concatenate rows of some ``obsm`` arrays of a table, a feature file, or a store that stays closed."""
    if isinstance(source, Path):
        source = open_features(source).tables[_keys.TABLE]
    blocks = []
    for key in keys:
        if isinstance(source, ad.AnnData):
            values, start = source.obsm[key], 0
        else:
            path, table_key = source
            values = zarr.open_group(path, mode="r")[f"tables/{table_key}/obsm/{key}"]
            start = int(rows[0])
            values = values[start : rows[-1] + 1] if isinstance(values, zarr.Array) else ad.io.read_elem(values)
            start = start if isinstance(values, np.ndarray) else 0
        blocks.append(to_dense(values, f"obsm[{key!r}]")[rows - start])
    return np.concatenate(blocks, 1) if len(blocks) > 1 else blocks[0]


def _value_of_slide(sample: Sample, argument: str, column: str, slide: str, of_slide: NDArray[np.bool_]) -> str:
    """Return the only value of a slide in a column, ``""`` if it has none."""
    if column not in sample.table.obs:
        return ""
    values = sorted(set(value_strings(sample.table.obs[column][of_slide])) - {""})
    if len(values) > 1:
        raise ValueError(
            f"slide {slide!r}: obs[{column!r}] has several values, {shorten(values)}, but {argument}= needs one value "
            "per slide. Name the slides with slide_key=, or choose a column that is the same for all patches of a "
            "slide."
        )
    return values[0] if values else ""


def _check_one_origin(path_of: Mapping[str, Path], name: str) -> None:
    """Raise if feature files are of several encoders or models, as far as they say."""
    known: dict[str, tuple[str, str]] = {}
    for slide, path in path_of.items():
        for kind, said in feature_origin(path).items():
            first, made_by = known.setdefault(kind, (slide, said))
            if (known_encoder(said) or said) != (known_encoder(made_by) or made_by):
                raise ValueError(
                    f"slide {slide!r} has features of {kind} {said!r} in {name!r}, but {first!r} of {made_by!r}. "
                    "Encode all slides alike."
                )


def _one_width(widths: Mapping[str, int], name: str) -> int:
    """Return the width that all slides have, else raise."""
    first, width = next(iter(widths.items()))
    other = next((slide for slide, other_width in widths.items() if other_width != width), None)
    if other is not None:
        raise ValueError(
            f"slide {other!r} has {widths[other]} features in {name!r}, but {first!r} has {width}. Encode all slides "
            "with the same encoder."
        )
    return width


def _labelled(bags: Bags, labels: pd.DataFrame, wanted: Mapping[str, str]) -> Bags:
    """Take facts from a table, which must have every slide once, and no other slide."""
    if not isinstance(labels, pd.DataFrame):
        raise TypeError(f"labels: got {type(labels).__name__}; expected a DataFrame with a column 'sample'.")
    if SPOT in labels or SAMPLE not in labels:
        raise ValueError(
            f"labels: expected one row per slide, named in a column {SAMPLE!r}; columns: {shorten(labels.columns, 20)}."
        )
    frame = check_label_table(labels, "labels")
    position = pd.Index(frame[SAMPLE]).get_indexer(pd.Index(bags.names))
    lacking = [name for name, row in zip(bags.names, position, strict=True) if row < 0]
    unknown = sorted(set(frame[SAMPLE]) - set(bags.names))
    if lacking or unknown:
        parts = [f"there is no row for {shorten(lacking)}"] if lacking else []
        parts += [f"{shorten(unknown)} are not slides"] if unknown else []
        raise KeyError(
            f"labels: {' and '.join(parts)}; the slides are {shorten(bags.names, 3)}. Use the same names in both (for "
            "files, the name without suffix). Every slide needs a row: leave its label empty to exclude it, and remove "
            "rows of other slides."
        )
    facts, kinds = {}, {}
    for argument, column in wanted.items():
        if column not in frame:
            raise KeyError(
                f"labels: {argument}={column!r} is not a column; columns: {shorten(frame.columns, 20)}."
                f"{ADVICE.get(argument, '')}"
            )
        facts[argument] = value_strings(frame[column])[position]
        kinds[argument] = joined_kind([column_kind(frame[column])])
    return replace(bags, facts=facts, kinds=kinds)
