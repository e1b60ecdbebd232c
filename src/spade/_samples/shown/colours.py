"""What is drawn (experts, other categories, numbers, expression) and its colours."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spade import _keys
from spade._checks import check_idle, shorten
from spade._samples.counts import has_counts, read_counts
from spade._samples.experts import expert_series, palette
from spade._samples.obs import categorical, category_strings, obs_column, value_strings
from spade._samples.sample import Sample
from spade.core.checks import brief, check_flag, check_text
from spade.core.expression.normalise import log_normalise
from spade.io._files.matrices import to_dense

#: Colours of Okabe and Ito, distinct with any kind of colour vision; without grey, which means missing here.
SAFE = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#000000")

#: A column of one sample, and the colours that its ``uns`` has for the categories.
ColumnColours = tuple[pd.Series, dict[str, str]]


@dataclass(frozen=True)
class Column:
    """Values of one column, over the rows of one or several samples.

    Attributes
    ----------
    name
        What a legend calls it.
    values
        Strings (``""``: missing) or, where ``colours`` is None, numbers (NaN: missing).
    colours
        Colour of every category, in order.
    """

    name: str
    values: NDArray[Any]
    colours: dict[str, str] | None

    def legend(self, rows: NDArray[Any] | slice = slice(None), missing: str = "missing") -> list[tuple[str, str]]:
        """Return the label (with count) and colour of every category in ``rows``."""
        values = self.values[rows]
        counts = {name: int((values == name).sum()) for name in [*(self.colours or ()), ""]}
        styles = {**(self.colours or {}), "": "none"}
        return [(f"{name or missing} ({n:,})", styles[name]) for name, n in counts.items() if n]

    def faces(self, rows: NDArray[Any] | slice = slice(None)) -> list[str]:
        """Return the colour of every row of a categorical column."""
        styles = {**(self.colours or {}), "": "none"}
        return [styles[value] for value in self.values[rows]]

    def rgba(self, rows: NDArray[Any] | slice = slice(None)) -> NDArray[np.uint8]:
        """Return the colour ``(n + 1, 4)`` of every row of a categorical column; where it is missing, and last: clear.

        So a raster of row numbers, with −1 for none, indexes it.
        """
        from matplotlib.colors import to_rgba_array

        known = self.colours or {}
        palette = np.round(255 * to_rgba_array([*known.values(), "none"])).astype(np.uint8)
        codes = pd.Index(list(known), dtype=object).get_indexer(pd.Index(self.values[rows], dtype=object))
        return palette[np.append(codes, -1)]


def read_column(sample: Sample, color: str | None, key: str) -> ColumnColours:
    """Return the experts (``color=None``) or a column of ``obs``, and the colours that ``uns`` has for it."""
    column = expert_series(sample, key) if color is None else obs_column(sample, color, "color")
    series = column if color is None else _labels(column)
    stored = sample.table.uns.get(f"{series.name}_colors")
    if stored is None or not isinstance(column.dtype, pd.CategoricalDtype) or len(stored) != len(column.cat.categories):
        return series, {}
    names = value_strings(column.cat.categories.to_series())
    return series, {name: str(colour) for name, colour in zip(names, stored, strict=True) if name}


def read_color(sample: Sample, color: str, layer: str | None, *, normalized: bool) -> ColumnColours:
    """Return one column as :func:`read_colors` does."""
    return read_colors(sample, [color], layer, normalized=normalized)[0]


def read_colors(sample: Sample, colors: Sequence[str], layer: str | None, *, normalized: bool) -> list[ColumnColours]:
    """Return what every color names: an ``obs`` column, a gene, or a column of ``obsm`` as ``"X_key:column"``.

    Expression is log-normalised, and missing where a spot has no counts. An error lists what there is.
    """
    table = sample.table
    genes = [name for name in map(partial(check_text, "color"), colors) if name not in table.obs]
    genes = [name for name in dict.fromkeys(genes) if name in table.var_names]
    expression = pd.DataFrame(index=table.obs_names)
    if genes:
        counts = read_counts(sample, layer, normalized=normalized)
        values = (counts if normalized else log_normalise(counts))[:, table.var_names.get_indexer(genes)].toarray()
        values = np.where(has_counts(counts)[:, None], values, np.nan)
        expression = pd.DataFrame(values, index=table.obs_names, columns=genes)
    else:
        reason = f"color={brief(colors[0] if len(colors) == 1 else list(colors))} is no expression of a gene"
        check_idle([("layer", layer, None), ("normalized", check_flag("normalized", normalized), False)], reason)
    return [(expression[name], {}) if name in expression else _read_plain(sample, name) for name in colors]


def _read_plain(sample: Sample, color: str) -> ColumnColours:
    """Return a column of ``obs`` or ``obsm``, or raise with what there is and what is called nearly so."""
    table = sample.table
    if color in table.obs:
        return read_column(sample, color, "")
    key, _, part = color.partition(":")
    if key in table.obsm:
        return _obsm_column(sample, key, part), {}
    names = {str(name).lower(): str(name) for name in [*table.var_names, *table.obs.columns]}
    alike = [f"{other}:{color}" for other in table.obsm if color in _predicted_genes(sample, other)]
    alike += [names[name] for name in get_close_matches(color.lower(), names)]
    raise KeyError(
        f"{sample.name}: color={color!r} is neither a column of obs nor a gene nor, as 'X_key:column', in obsm"
        f"{'; did you mean ' + ' or '.join(map(repr, alike)) + '?' if alike else ';'} obs: "
        f"{shorten(table.obs.columns, 8)}; genes: {shorten(table.var_names) or 'none'}; obsm: "
        f"{shorten(table.obsm) or 'none'}."
    )


def _predicted_genes(sample: Sample, key: str) -> list[str]:
    """Return the genes in the columns of predicted expression, none of another key of ``obsm``."""
    return list(map(str, sample.table.uns.get(_keys.predicted_genes(key.removeprefix("X_")), ())))


def _obsm_column(sample: Sample, key: str, part: str) -> pd.Series:
    """Return a column of ``obsm[key]`` by name or number; the only one if none is named."""
    stored, where = sample.table.obsm[key], f"{sample.name}: obsm[{key!r}]"
    sample.check_current(key)
    values = stored.to_numpy() if isinstance(stored, pd.DataFrame) else to_dense(stored, where)
    named = stored.columns if isinstance(stored, pd.DataFrame) else _predicted_genes(sample, key)
    names = list(map(str, named)) if len(named) == values.shape[1] else list(map(str, range(values.shape[1])))
    if part not in names and not (part == "" and len(names) == 1):
        raise KeyError(f"{where} has the columns {shorten(names, 10)}; name one, as in color='{key}:{names[0]}'.")
    column = names.index(part) if part else 0
    return pd.Series(values[:, column].astype(np.float64), index=sample.table.obs_names, name=f"{key}:{part}")


def _labels(column: pd.Series) -> pd.Series:
    """Return categories as functions of tl read them; numbers stay as they are."""
    return column if _is_numeric(column) else _as_categories(column, str(column.name))


def _as_categories(column: pd.Series, where: str) -> pd.Series:
    values, categories = category_strings(column, where)
    return pd.Series(categorical(values, categories), index=column.index, name=column.name)


def expert_colours(names: Iterable[str]) -> dict[str, str]:
    """Return the default colour of every expert, in the order of their numbers."""
    ordered = sorted(names, key=int)
    colours = palette(1 + max(map(int, ordered), default=0)).tolist()
    return {name: colours[int(name)] for name in ordered}


def join_columns(name: str, columns: Iterable[ColumnColours], *, experts: bool = False) -> Column:
    """Concatenate a column of several samples, with one colour per category throughout.

    Colours in ``uns`` are kept as :func:`distinct_colours` says. Other experts get their default colours, and other
    categories the colours of :data:`SAFE`, if these suffice. Numbers in some samples and categories in others are
    categories.
    """
    series, stored = zip(*columns, strict=True)
    if all(map(_is_numeric, series)):
        return Column(name, np.concatenate([one.to_numpy(dtype=np.float64, na_value=np.nan) for one in series]), None)
    where = f"color={name!r}, which has categories in other samples,"
    series = tuple(_as_categories(one, where) if _is_numeric(one) else one for one in series)
    categories: dict[str, None] = {}
    for one in series:
        known = (
            one.cat.categories if isinstance(one.dtype, pd.CategoricalDtype) else sorted(set(one.dropna().astype(str)))
        )
        categories.update(dict.fromkeys(map(str, known)))
    if experts:  # by number: a subset of the spots may lack some
        defaults = expert_colours(categories)
    else:
        free = list(SAFE) if len(categories) <= len(SAFE) else palette(len(categories)).tolist()
        defaults = dict(zip(categories, free, strict=False))
    values = np.concatenate([np.where(one.isna(), "", one.astype(str)).astype(object) for one in series])
    return Column(name, values, distinct_colours(defaults, stored))


def distinct_colours(defaults: Mapping[str, str], stored: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Return the colour of every category of ``defaults``, in their order.

    The first sample that has a colour for a category decides, unless an earlier one gave this colour to another
    category. All others get their default or, if it is taken, the first free colour of :data:`SAFE` and a palette.
    """
    colours: dict[str, str] = {}
    for known in stored:
        taken = set(map(_plain, colours.values()))  # of other samples: two of one sample may be meant to look alike
        new = {name: known[name] for name in defaults if name in known and name not in colours}
        colours |= {name: colour for name, colour in new.items() if _plain(colour) not in taken}
    for name, colour in defaults.items():
        if name not in colours and _plain(colour) not in map(_plain, colours.values()):
            colours[name] = colour
    taken = set(map(_plain, colours.values()))
    pool = [*SAFE, *palette(len(defaults) + len(taken)).tolist()]
    free = (colour for colour in dict.fromkeys(pool) if _plain(colour) not in taken)
    return {name: colours[name] if name in colours else next(free) for name in defaults}


def _plain(colour: str) -> str:
    """Return one way to write a colour."""
    from matplotlib.colors import is_color_like, to_hex

    return to_hex(colour, keep_alpha=True) if is_color_like(colour) else colour


def _is_numeric(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)


def join_color(name: str, columns: Iterable[ColumnColours]) -> Column:
    """Concatenate what :func:`read_color` returned for several samples; numbered experts keep their colours."""
    columns = list(columns)
    ends = name.endswith((_keys.expert(""), _keys.cluster("")))
    kinds = [one.dtype.categories for one, _ in columns if isinstance(one.dtype, pd.CategoricalDtype)]
    numbered = all(str(category).isdigit() for kind in kinds for category in kind)
    return join_columns(name, columns, experts=ends and len(kinds) == len(columns) and numbered)
