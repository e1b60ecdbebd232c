"""The samples of a HEST-1k folder that fit a choice, opened when their turn comes."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from spade._checks import plural, shorten, value_strings
from spade.core.checks import brief, check_choice, check_count, check_path
from spade.core.errors import warn
from spade.core.rng import as_seed
from spade.io._cohort.hest_sample import SPLIT, HestSample
from spade.io._cohort.known import DUPLICATE, HEST_BENCH, PATIENT, SCALE, known
from spade.io._cohort.lazy import ON_DAMAGED
from spade.io._cohort.metadata import check_metadata, newest_metadata, read_hest_metadata
from spade.io._cohort.spade_samples import deal_by_organ, is_of_authors
from spade.io._hest import KINDS, complete_samples

logger = logging.getLogger("spade")
#: Choices of samples that have a name, and what to do with samples of which problems are known.
SPADE, PROBLEMS = "spade", ("drop", "keep")
#: ``obs`` columns, and the columns of the table that they are taken from.
COLUMNS = {
    "organ": "organ",
    "species": "species",
    "technology": "st_technology",
    "disease_state": "disease_state",
    "oncotree_code": "oncotree_code",
}
#: Folder of the stores with results, in that of the dataset.
STORES = "spade_stores"


def hest_cohort(
    folder: str | Path,
    *,
    metadata: pd.DataFrame | str | Path | None = None,
    organ: str | Sequence[str] | None = None,
    species: str | Sequence[str] | None = None,
    technology: str | Sequence[str] | None = None,
    disease: str | Sequence[str] | None = None,
    min_genes: int | None = None,
    exclude: str | Sequence[str] | None = None,
    problems: str = "drop",
    on_damaged: str = "error",
    stores: str | Path | None = None,
    rng: int | np.random.Generator = 0,
) -> list[HestSample]:
    """Choose samples of a HEST-1k folder; each is opened when its turn comes.

    The list is passed as ``samples`` to any function. Slides stay where they are. What is computed of a sample is saved
    in a store of its own, which is made at the first result and holds table, spots and outlines, but no image; the
    next call finds it there.

    Parameters
    ----------
    folder
        Folder of the dataset, see :func:`read_hest`, with the table of all samples (``HEST_v*.csv``; of several
        versions the newest).
    metadata
        The table, or its path, if it is not in the folder.
    organ, species, technology
        Values to keep, as the table writes them: ``"Breast"``, ``"Homo sapiens"``, ``"Visium"``. None: all.
    disease
        States of disease (``"Cancer"``) or OncoTree codes (``"IDC"``) to keep. None: all.
    min_genes
        Fewest genes of a sample, by the table.
    exclude
        ``"spade"``: all that the authors of SPADE left out, see :func:`spade_samples`; ``"hest_bench"``: the samples of
        HEST-Bench and all others of their patients, so that a model can be tested on it; ids of samples; or a list of
        these.
    problems
        ``"drop"`` leaves samples out of which it is known that they show the section of another sample that is kept, or
        that their scale is wrong, and the log names them, eight of the authors' 374 samples among them; ``"keep"`` does
        not. The list, with sources, is ``spade/io/_cohort/hest_samples.csv``. Wrong patients in it are corrected in any
        case.
    on_damaged
        What a function does with a sample that is incomplete or cannot be read, such as a file that was cut off:
        ``"error"``, or ``"skip"``, which goes on without it and warns.
    stores
        Folder of the stores with results. None: ``spade_stores`` in ``folder``.
    rng
        Seed of the column ``split``.

    Returns
    -------
    list of samples
        Those of the choice that are in the folder, in the order of the table. ``sample.open()`` returns the
        ``SpatialData``, ``sample.name`` and ``sample.store`` are its id and the path of its store. ``obs`` holds
        ``patient``, ``organ``, ``species``, ``technology``, ``disease_state`` and ``oncotree_code`` as in the table,
        missing where it is empty there. A sample without patient is a patient of its own; a name that several studies
        use, such as "Patient 1", is followed by that of the study, unless the list above names the patient. ``split``
        is ``"train"`` or ``"test"``: a tenth of the samples of every organ, drawn as in :func:`spade_samples` among all
        samples of the choice, whether they are in the folder or not; it is used with ``split_key="split"``. A sample
        that is opened from its store has what the table says now, unless you or :func:`spade.pp.label_patches` wrote
        another value into the column.

    Raises
    ------
    FileNotFoundError
        If there is no folder or table, none of the chosen samples is in the folder, or a sample is incomplete.
    ValueError
        If the table lacks a column or does not know a value or id, or if no sample fits. When a sample is opened, if
        its expression or its scale is another than when its store was made.

    Warns
    -----
    UserWarning
        If samples in the folder are not in the table, or are incomplete with ``on_damaged="skip"``.

    Examples
    --------
    A folder with a table, and the files of one of its samples:

    >>> import json, pathlib, tempfile
    >>> import anndata, numpy, pandas, tifffile
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name in ("wsis", "st", "metadata"):
    ...     (folder / name).mkdir()
    >>> facts = {"id": "TENX99", "organ": "Breast", "species": "Homo sapiens", "st_technology": "Visium"}
    >>> facts |= {"nb_genes": 3, "pixel_size_um_estimated": 0.5}
    >>> pandas.DataFrame([facts]).to_csv(folder / "HEST_v1_1_0.csv", index=False)
    >>> _ = (folder / "metadata" / "TENX99.json").write_text(json.dumps(facts))
    >>> tifffile.imwrite(folder / "wsis" / "TENX99.tif", numpy.full((600, 800, 3), 240, "uint8"), photometric="rgb")
    >>> centres = numpy.array([[100.0, 100.0], [300.0, 100.0], [200.0, 273.0], [400.0, 273.0]])
    >>> spots = anndata.AnnData(numpy.ones((4, 3), dtype="float32"), obsm={"spatial": centres})
    >>> spots.write_h5ad(folder / "st" / "TENX99.h5ad")

    >>> import spade as sp
    >>> cohort = sp.io.hest_cohort(folder, species="Homo sapiens", technology="Visium")
    >>> sp.pp.patches(cohort)
    >>> [sample.open()["table"].obs["organ"].iloc[0] for sample in cohort]
    ['Breast']
    """
    folder = check_path("folder", folder)
    check_choice("problems", problems, PROBLEMS)
    check_choice("on_damaged", on_damaged, ON_DAMAGED)
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r} is not a folder; sp.datasets.hest downloads samples to one.")
    table = _table(folder, metadata)
    kept = pd.Series(data=True, index=table.index)
    for argument, wanted, columns in (
        ("organ", organ, ["organ"]),
        ("species", species, ["species"]),
        ("technology", technology, ["st_technology"]),
        ("disease", disease, ["disease_state", "oncotree_code"]),
    ):
        kept &= _fits(table, argument, wanted, columns)
    if min_genes is not None:
        kept &= table["nb_genes"] >= check_count("min_genes", min_genes)
    kept &= ~_excluded(table, exclude)
    if problems == "drop":
        kept &= ~_with_problem(table[kept]).reindex(table.index, fill_value=False)
    if not kept.any():
        raise ValueError(
            f"none of {plural(len(table), 'sample')} fits organ={organ!r}, species={species!r}, "
            f"technology={technology!r}, disease={disease!r}, min_genes={min_genes!r}, exclude={exclude!r}."
        )
    columns = _columns(table, kept).assign(**{SPLIT: deal_by_organ(table[kept], as_seed(rng))})[kept]
    ids = _present(folder, list(table["id"][kept]), set(table["id"]), on_damaged)
    places = check_path("stores", stores) if stores is not None else folder / STORES
    return [
        HestSample(name, places / f"{name}.zarr", on_damaged, folder=folder, columns=columns.loc[row].to_dict())
        for row, name in table["id"][kept].items()
        if name in ids
    ]


def _table(folder: Path, metadata: pd.DataFrame | str | Path | None) -> pd.DataFrame:
    """Return the table of all samples, with one row per number."""
    if metadata is None:
        metadata = newest_metadata(folder)
    elif not isinstance(metadata, pd.DataFrame):
        metadata = read_hest_metadata(metadata)
    return check_metadata(metadata, "metadata").reset_index(drop=True)


def _texts(table: pd.DataFrame, column: str) -> pd.Series:
    """Return a column as texts, ``""`` where a value is missing or the table has no such column."""
    values = value_strings(table[column]) if column in table else ""
    return pd.Series(values, index=table.index, dtype=object)


def _fits(table: pd.DataFrame, argument: str, wanted: str | Sequence[str] | None, columns: list[str]) -> pd.Series:
    """Return which samples have one of the values that are wanted, in one of the columns."""
    if wanted is None:
        return pd.Series(data=True, index=table.index)
    asked = _as_list(argument, wanted)
    values = pd.DataFrame({column: _texts(table, column) for column in columns})
    there = sorted(set(values.to_numpy().ravel()) - {""})
    if unknown := [value for value in asked if value not in there]:
        raise ValueError(f"{argument}: {shorten(unknown)} is not in the table; there are {shorten(there, 30)}.")
    return values.isin(asked).any(axis=1)


def _as_list(argument: str, value: object) -> list[str]:
    values: list[Any] = [value] if isinstance(value, str) or not isinstance(value, Iterable) else list(value)
    if not values or not all(isinstance(one, str) and one for one in values):
        raise TypeError(f"{argument}={brief(value)}: expected a text, or a list of texts.")
    return values


def _excluded(table: pd.DataFrame, exclude: str | Sequence[str] | None) -> pd.Series:
    """Return which samples are excluded by name of a choice or by id."""
    excluded = pd.Series(data=False, index=table.index)
    if exclude is None:
        return excluded
    ids = set(table["id"])
    asked = _as_list("exclude", exclude)
    if unknown := [one for one in asked if one not in ids and one not in (SPADE, HEST_BENCH)]:
        raise ValueError(
            f"exclude: {shorten(unknown)} is neither the id of a sample in the table, nor {SPADE!r} or {HEST_BENCH!r}."
        )
    if SPADE in asked:
        excluded |= ~is_of_authors(table)
    if HEST_BENCH in asked:
        excluded |= _of_bench(table)
    return excluded | table["id"].isin(asked)


def _of_bench(table: pd.DataFrame) -> pd.Series:
    """Return which samples are of HEST-Bench, show a section of one of these, or are of the same patient."""
    same_as = known(DUPLICATE)
    bench = {one for pair in same_as.items() if not known(HEST_BENCH).keys().isdisjoint(pair) for one in pair}
    itself, patient = table["id"].isin({*known(HEST_BENCH), *bench}), _patients(table)
    excluded = itself | patient.isin(set(patient[itself]))
    if more := sorted(set(table["id"][excluded]) - known(HEST_BENCH).keys()):
        logger.info('exclude="hest_bench": also of its patients, or the same section: %s', ", ".join(more))
    return excluded


def _with_problem(table: pd.DataFrame) -> pd.Series:
    """Return which samples show the section of another one among these, or have a wrong scale, and log them."""
    ids = set(table["id"])
    duplicates = {one: other for one, other in known(DUPLICATE).items() if one in ids and other in ids}
    wrong = [one for one in known(SCALE) if one in ids]
    if duplicates or wrong:
        listed = ", ".join(f"{one} (as {other})" for one, other in duplicates.items())
        logger.info(
            'left out (problems="drop"): the same section as another sample: %s; wrong scale: %s',
            listed or "none", ", ".join(wrong) or "none",
        )  # fmt: skip
    return table["id"].isin([*duplicates, *wrong])


def _columns(table: pd.DataFrame, kept: pd.Series) -> pd.DataFrame:
    """Return the ``obs`` columns of every sample.

    The log says how many of the samples that are ``kept`` have no patient.
    """
    stated = _stated_patients(table)
    if n_own := int((stated[kept] == "").sum()):
        logger.info(
            "the table names no patient for %d of %d samples: each is taken as a patient of its own, although sections "
            "of one study may share one", n_own, int(kept.sum()),
        )  # fmt: skip
    return pd.DataFrame(
        {"patient": _patients(table), **{name: _texts(table, column) for name, column in COLUMNS.items()}}
    )


def _stated_patients(table: pd.DataFrame) -> pd.Series:
    """Return the patient of every sample as the list of corrections or the table has it, ``""`` if neither does."""
    return table["id"].map(known(PATIENT)).fillna(_texts(table, "patient")).astype(object)


def _patients(table: pd.DataFrame) -> pd.Series:
    """Return a name for the patient of every sample, which is another in every study unless the list knows better."""
    title, stated = _texts(table, "dataset_title"), _stated_patients(table)
    by_table, name = ~table["id"].isin(known(PATIENT)), stated.str.lower()
    n_studies = title[by_table].groupby(name[by_table]).nunique()
    shared = by_table & (name.map(n_studies) > 1)
    return stated.where(~shared, stated + ", " + title).where(stated != "", table["id"])


def _present(folder: Path, ids: list[str], in_table: set[str], on_damaged: str) -> set[str]:
    """Return the samples that are in the folder, complete or not; those without expression were not downloaded."""
    complete = set(complete_samples(folder))
    begun = {
        file.stem for kind, suffix in KINDS.items() if kind != "metadata" for file in (folder / kind).glob(f"*{suffix}")
    }
    if unknown := sorted((complete | begun) - in_table):
        warn(f"folder: {plural(len(unknown), 'sample')} are not in the table and are left out: {shorten(unknown)}.")
    present = [name for name in ids if name in begun]
    if not present:
        raise FileNotFoundError(
            f"folder={str(folder)!r} has none of the {plural(len(ids), 'sample')} of this choice, such as "
            f"{shorten(ids, 3)}. Download them with sp.datasets.hest(ids, root)."
        )
    if incomplete := [name for name in present if name not in complete]:
        said = f"folder={str(folder)!r}: {plural(len(incomplete), 'sample')} lack a file: {shorten(incomplete)}"
        if on_damaged == "error":
            raise FileNotFoundError(
                f"{said}. A sample needs wsis/ (or patches/), st/ and metadata/. Download them again, or pass "
                'on_damaged="skip" to leave them out.'
            )
        warn(f"{said}, and are left out.")
    logger.info("%d of %d samples of this choice are in the folder", len(set(present) & complete), len(ids))
    return set(present) & complete
