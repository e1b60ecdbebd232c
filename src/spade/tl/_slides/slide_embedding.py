"""One vector per slide, pooled over its patches."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from os import PathLike
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import check_idle, plural, shorten
from spade._said.lines import speaks
from spade._samples.features import Representation
from spade._samples.obs import obs_column
from spade._samples.open import Item, as_list, iter_samples
from spade._samples.sample import Sample
from spade.core.arrays import Floats
from spade.core.checks import brief, check_choice, check_flag, check_path, check_text
from spade.io._cohort.places import feature_name, feature_path, is_features
from spade.io._feature_files import feature_facts, features_digest, find_feature_files, read_feature_file
from spade.tl._slides.bags import Bags, BagSource, Block, read_bags

logger = logging.getLogger("spade")
MEAN, ATTENTION, COMPOSITION = "mean", "attention", "composition"
#: What the weights of experts may differ from a sum of 1, as float32.
ROUNDING = 1e-3


@speaks
def slide_embedding(
    samples: BagSource,
    *,
    use_rep: Representation | None = None,
    pool: str = MEAN,
    weights_key: str | PathLike[str] | None = None,
    slide_key: str | None = None,
    return_counts: bool = False,
    table_key: str | None = None,
) -> pd.DataFrame | tuple[pd.DataFrame, pd.DataFrame]:
    """Return one vector per slide, pooled over its patches.

    Patches without features (NaN) are left out, which is logged. Slides are read one at a time, and nothing is trained.

    Parameters
    ----------
    samples
        Samples or feature files, as in :func:`slide_task`; a dict of folders puts their representations side by side.
    use_rep
        For samples: ``obsm`` key of a representation; a tuple of keys is concatenated, over the patches that have all
        of them. None for feature files. For ``pool="composition"`` a key of expert weights, a key of programs, or
        both; None: those of the keys ``"spade_expert_weights"`` and ``"X_programs"`` that are there.
    pool
        ``"mean"``: mean over patches. ``"attention"``: mean weighted by ``weights_key``.
        ``"composition"``: what the slide consists of, for samples that :func:`embed` was run on, and files that it
        wrote. ``expert_<j>`` is the mean routing weight of an expert; these sum to 1. ``program_<j>`` is the share of
        patches in which the image predicts this program most strongly; these sum to 1 as well.
    weights_key
        ``obs`` column of the attention of every patch, such as ``"organ_attention"``, which :func:`attention` writes.
        Patches without a weight (NaN) are left out. For feature files: the folder that :func:`attention` wrote of them.
    slide_key
        ``obs`` column that names the slides; None: every section is one.
    return_counts
        Also return how many patches were pooled and how many left out.
    table_key
        Table; may be left out when there is one.

    Returns
    -------
    DataFrame
        One row per slide, named by the index ``slide``; float64. Columns are ``<key>_<j>``, of feature files
        ``<name>_<j>`` with the names of the dict (of a single folder: ``features_<j>``).
    DataFrame
        With ``return_counts``: ``n_patches`` and ``n_left_out`` of every slide; with several folders for each of them,
        as ``n_patches_<name>``.

    Raises
    ------
    KeyError
        No such representation or column, or none for ``"composition"``.
    ValueError
        A slide without any patch to pool, slides of another width, damaged files; attention that is negative or was
        computed for other slides or features; compositions of different models.

    Notes
    -----
    Attention was trained on the labels of these very slides, so vectors pooled by it look better than they are in a
    cross-validation with the same labels.

    A :class:`spade.models.ProgramModel` predicts programs in deviations from the mean of the section. Their mean is
    therefore the same for all sections; the share of patches tells how a section divides, not how strong a program is
    compared with other sections.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> from sklearn.linear_model import LogisticRegression
    >>> samples = sp.datasets.toy(4, 20)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> slides = sp.tl.slide_embedding(samples, use_rep="X_texture")
    >>> slides.shape
    (4, 184)

    It can be joined to a table with one row per slide, or classified as it is:

    >>> labels = pd.DataFrame({"sample": slides.index, "organ": ["a", "b", "a", "b"]})
    >>> slides.join(labels.set_index("sample")).shape
    (4, 185)
    >>> probe = LogisticRegression(max_iter=1000).fit(slides, labels["organ"])
    """
    check_choice("pool", pool, (MEAN, ATTENTION, COMPOSITION))
    check_flag("return_counts", return_counts)
    if use_rep is not None and not isinstance(use_rep, (str, tuple)):
        raise TypeError(f"use_rep={brief(use_rep)}: expected one representation, a key or a tuple of keys.")
    keys = (use_rep,) if isinstance(use_rep, str) else use_rep
    if keys is not None and (not keys or len(set(keys)) < len(keys)):
        raise ValueError(f"use_rep={brief(use_rep)}: expected keys, each of them once.")
    if pool == ATTENTION:
        if not isinstance(weights_key, PathLike):
            check_text("weights_key", weights_key)
    else:
        check_idle([("weights_key", weights_key, None)], 'only pool="attention" weighs patches')
    items = None if pool == MEAN else as_list(samples)
    mixtures = _mixtures(items, keys, table_key) if items is not None and pool == COMPOSITION else []
    keys = tuple(mixture.key for mixture in mixtures) or keys
    bags = read_bags(
        samples if items is None else items,
        named=None if keys is None else {" + ".join(keys): keys},
        columns={},
        slide_key=slide_key,
        table_key=table_key,
        argument="samples",
        opened=pool == COMPOSITION,
    )
    weights = None
    if items is not None and weights_key is not None:
        weights = (
            _file_weights(items, bags, weights_key)
            if is_features(items[0])
            else _weights(items, bags, check_text("weights_key", weights_key), slide_key, table_key)
        )
    rows, n_pooled = [], []
    for i in tqdm(range(len(bags)), desc="pooling", unit="slide"):
        weight = None if weights is None else next(weights)
        pooled = [_pooled(bags, i, name, mixtures, weight) for name in bags.blocks]
        rows.append(np.concatenate([values for values, _ in pooled]))
        n_pooled.append([n for _, n in pooled])
    index = pd.Index(bags.names, name="slide", dtype=object)
    counts = _counts(bags, np.array(n_pooled), index)
    embedded = pd.DataFrame(np.stack(rows), index, _columns(bags, keys, mixtures))
    return (embedded, counts) if return_counts else embedded


class _Mixture(NamedTuple):
    """An ``obsm`` key that a composition is read from; without ``n_programs`` it holds weights of experts."""

    key: str
    model_id: str
    n_programs: int = 0

    def columns(self, width: int) -> list[str]:
        """Return the names of the shares, for a key of some width."""
        return [f"program_{j}" for j in range(self.n_programs)] or [f"expert_{j}" for j in range(width)]

    def shares(self, values: Block, slide: str) -> Floats:
        """Return the mean weights of experts, or the share of patches in which each program is the strongest."""
        if self.n_programs:
            strongest = values[:, -self.n_programs :].argmax(1)
            return np.bincount(strongest, minlength=self.n_programs) / len(values)
        sums = values.sum(1, dtype=np.float64)
        if values.min() < 0 or np.abs(sums - 1).max() > ROUNDING:
            raise ValueError(
                f"slide {slide!r}: use_rep={self.key!r} holds no weights of experts, which are at least 0 and sum to 1 "
                f"(lowest {values.min():g}, sums from {sums.min():g} to {sums.max():g}). Run sp.tl.embed again."
            )
        return (values / sums[:, None]).mean(0)


def _mixtures(items: Sequence[Item], keys: tuple[str, ...] | None, table_key: str | None) -> list[_Mixture]:
    """Return what compositions are read from, the same in all samples."""
    usual = (_keys.weights(_keys.STEM), _keys.joint(_keys.PROGRAMS))
    first: list[_Mixture] = []
    name = ""
    for sample in iter_samples(items, table_key=table_key, tables_only=True):
        keys = tuple(key for key in usual if key in sample.table.obsm) if keys is None else keys
        if not keys:
            raise KeyError(
                f"{sample.name}: use_rep=None: obsm has neither {usual[0]!r} nor {usual[1]!r}, of which a composition "
                f"consists; there is {shorten(sample.table.obsm) or 'nothing'}. Run sp.tl.embed(samples, model), or "
                "name other keys."
            )
        found = [_mixture(sample, key) for key in keys]
        if len({mixture.n_programs > 0 for mixture in found}) < len(found):
            raise ValueError(
                f"use_rep={keys!r}: a composition has one key of expert weights and one of programs at most."
            )
        if first and found != first:
            raise ValueError(
                f"use_rep={keys!r}: {name} and {sample.name} were embedded by different models, whose experts and "
                "programs have nothing in common. Run sp.tl.embed on all samples with the same model."
            )
        first, name = found, sample.name
    return first


def _mixture(sample: Sample, key: str) -> _Mixture:
    """Return what a key holds; raise unless ``embed`` wrote weights of experts or programs there."""
    if key not in sample.table.obsm:
        raise KeyError(
            f"{sample.name}: use_rep={key!r} is not in obsm; there is {shorten(sample.table.obsm) or 'nothing'}. Run "
            "sp.tl.embed(samples, model)."
        )
    uns, stem = sample.table.uns, key.removesuffix(_keys.weights(""))
    if stem != key:
        sample.check_current(_keys.expert(stem))
        return _Mixture(key, str(_keys.read_provenance(uns, _keys.joint(stem)).get("model_id", "")))
    record = _keys.read_provenance(uns, key)
    if not record.get("n_programs", 0):
        raise ValueError(
            f"{sample.name}: use_rep={key!r} holds neither weights of experts, as {_keys.weights(_keys.STEM)!r} does, "
            'nor programs that sp.tl.embed wrote. Run sp.tl.embed with such a model, or pool by "mean".'
        )
    return _Mixture(key, str(record.get("model_id", "")), int(record["n_programs"]))


def _weights(
    items: Sequence[Item], bags: Bags, weights_key: str, slide_key: str | None, table_key: str | None
) -> Iterator[Floats]:
    """Yield the weights of the patches of every slide, in the order of the slides; they sum to 1, NaN aside."""
    for number, sample in enumerate(iter_samples(items, table_key=table_key, tables_only=True)):
        column = obs_column(sample, weights_key, "weights_key")
        record = _keys.read_provenance(sample.table.uns, weights_key)
        if record.get("function") == "tl.attention" and record.get("slide_key") != slide_key:
            raise ValueError(
                f"{sample.name}: weights_key={weights_key!r} was computed with slide_key={record.get('slide_key')!r}, "
                f"but slides are named by slide_key={slide_key!r}; attention can only be compared within a slide."
            )
        if not pd.api.types.is_numeric_dtype(column):
            raise TypeError(f"{sample.name}: weights_key={weights_key!r} is of type {column.dtype}; expected numbers.")
        of_row = column.to_numpy(np.float64, na_value=np.nan)
        for slide, (of_sample, rows) in zip(bags.names, bags.places, strict=True):
            if of_sample == number:
                yield _shares(of_row[rows], slide, weights_key)


def _file_weights(items: Sequence[Item], bags: Bags, weights_key: str | PathLike[str]) -> Iterator[Floats]:
    """Yield the weights of the patches of every feature file, as :func:`attention` wrote them; they sum to 1."""
    folder = check_path("weights_key", weights_key)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"weights_key={str(folder)!r} is no folder; of feature files it is the one in which "
            "sp.tl.attention(samples, out=…) wrote."
        )
    written = find_feature_files(folder, "weights_key")
    path_of = {feature_name(item): feature_path(item) for item in items}
    for slide in bags.names:
        if slide not in written:
            raise KeyError(
                f"weights_key={str(folder)!r} has no file of slide {slide!r}; there are {shorten(written)}. Run "
                "sp.tl.attention(samples, out=…) on all slides."
            )
        facts = feature_facts(written[slide])
        if (facts.get("function"), facts.get("source_id")) != ("tl.attention", features_digest(path_of[slide])):
            raise ValueError(
                f"weights_key={str(folder)!r}: {written[slide].name!r} is not what sp.tl.attention wrote of "
                f"{str(path_of[slide])!r}. Run sp.tl.attention(samples, out=…) on these files."
            )
        yield _shares(read_feature_file(written[slide])[:, 0].astype(np.float64), slide, str(folder))


def _shares(weights: Floats, slide: str, weights_key: str) -> Floats:
    """Return the weights of a slide so that they sum to 1; NaN stays NaN."""
    known = weights[~np.isnan(weights)]
    total = float(known.sum())
    if not np.isfinite(total) or total <= 0 or known.min() < 0:
        what = f"range from {known.min():g} to {known.max():g}" if len(known) else "are all NaN"
        raise ValueError(
            f"slide {slide!r}: its weights in weights_key={weights_key!r} {what}; expected numbers of at least 0, and "
            "not all 0. Run sp.tl.attention on these slides, or leave the slide out."
        )
    return weights / total


def _pooled(bags: Bags, i: int, name: str, mixtures: Sequence[_Mixture], weights: Floats | None) -> tuple[Floats, int]:
    """Return the vector of a slide in one representation, and the number of patches in it."""
    values = bags.read(i, name)
    if mixtures:
        ends = np.cumsum([width for width, _ in bags.blocks[name]])[:-1]
        parts = zip(mixtures, np.split(values, ends, axis=1), strict=True)
        return np.concatenate([mixture.shares(block, bags.names[i]) for mixture, block in parts]), len(values)
    if weights is None:
        return values.mean(0, dtype=np.float64), len(values)
    known = ~np.isnan(weights)
    return weights[known] @ values[known].astype(np.float64), int(known.sum())


def _columns(bags: Bags, keys: tuple[str, ...] | None, mixtures: Sequence[_Mixture]) -> list[str]:
    """Return the names of all columns."""
    columns = []
    for name, blocks in bags.blocks.items():
        for k, (width, _) in enumerate(blocks):
            stem = name if keys is None else keys[k]
            columns += mixtures[k].columns(width) if mixtures else [f"{stem}_{j}" for j in range(width)]
    return columns


def _counts(bags: Bags, n_pooled: NDArray[np.integer], index: pd.Index) -> pd.DataFrame:
    """Return how many patches of every slide were pooled and left out; log those that were left out."""
    counts: dict[str, NDArray[np.integer]] = {}
    for k, name in enumerate(bags.blocks):
        n_left_out = np.array(bags.n_rows[name]) - n_pooled[:, k]
        suffix = f"_{name}" if len(bags.blocks) > 1 else ""
        counts |= {f"n_patches{suffix}": n_pooled[:, k], f"n_left_out{suffix}": n_left_out}
        if n_left_out.any():
            logger.info(
                "slide_embedding: %s without %s left out, of slides %s", plural(int(n_left_out.sum()), "patch"), name,
                shorten(index[n_left_out > 0]),
            )  # fmt: skip
    return pd.DataFrame(counts, index)
