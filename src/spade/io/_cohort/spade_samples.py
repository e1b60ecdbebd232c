"""The samples of HEST-1k that the authors of SPADE trained and tested on."""

from __future__ import annotations

import logging

import numpy as np
import pandas as pd

from spade._checks import plural
from spade.core.rng import as_seed, numpy_stream
from spade.io._cohort.metadata import check_metadata

logger = logging.getLogger("spade")
SPECIES, TECHNOLOGY, MIN_GENES = "Homo sapiens", "Visium", 10_000
#: Organs that are left out, alone or beside others, and samples that are left out whatever they are.
ORGANS, LEFT_OUT = ("brain", "embryo"), ("INT17", "NCBI854", "NCBI855", "TENX28")
TEST_SHARE = 0.1
SPLIT = "split"


def spade_samples(metadata: pd.DataFrame, *, rng: int | np.random.Generator = 0) -> pd.DataFrame:
    """Choose the samples of HEST-1k as the authors of SPADE did, and deal them into training and test.

    Kept are human Visium samples with more than 10,000 genes, neither of brain nor of embryo, without INT17, NCBI854,
    NCBI855 and TENX28. Of every organ a tenth of the samples, to the nearest whole number (half: the even one), is
    test. The authors' own draw is not published; this one follows ``rng``, whatever the order of the rows.

    Parameters
    ----------
    metadata
        Table of samples from :func:`read_hest_metadata`.
    rng
        Seed of the draw.

    Returns
    -------
    DataFrame
        The rows that are kept, in their order, with a column ``split``: ``"train"`` or ``"test"``.

    Raises
    ------
    TypeError
        If ``metadata`` is not a table.
    ValueError
        If it lacks a column, names a sample twice or already has a column ``split``, or if no sample is left.

    Notes
    -----
    Samples are dealt as the authors did, not patients: sections of one patient can be in both parts, and the log says
    of how many. :func:`spade.pp.split` with ``groupby="patient"`` keeps them together.

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> metadata = pd.DataFrame({"id": [f"S{i}" for i in range(10)], "organ": "Skin", "species": "Homo sapiens"})
    >>> metadata["st_technology"], metadata["nb_genes"] = "Visium", [1_000, *[17_943] * 9]
    >>> sp.io.spade_samples(metadata)["split"].value_counts().to_dict()
    {'train': 8, 'test': 1}
    """
    if not isinstance(metadata, pd.DataFrame):
        raise TypeError(
            f"metadata: got {type(metadata).__name__}; expected the table that sp.io.read_hest_metadata returns."
        )
    check_metadata(metadata, "metadata")
    if SPLIT in metadata:
        raise ValueError(f"metadata already has a column {SPLIT!r}, which would be replaced; rename it.")
    chosen = metadata[is_of_authors(metadata)].copy()
    if chosen.empty:
        raise ValueError(
            f"metadata: none of {plural(len(metadata), 'sample')} is human, Visium, of more than {MIN_GENES:,} genes, "
            "of another organ than brain, and not one that the authors left out."
        )
    chosen[SPLIT] = deal_by_organ(chosen, as_seed(rng))
    n_both = int((chosen.groupby("patient")[SPLIT].nunique() > 1).sum()) if "patient" in chosen else 0
    logger.info(
        "%d of %d samples, %d of them test; patients in both parts: %d",
        len(chosen), len(metadata), int((chosen[SPLIT] == "test").sum()), n_both,
    )  # fmt: skip
    return chosen


def deal_by_organ(metadata: pd.DataFrame, seed: int) -> pd.Series:
    """Return ``"test"`` for a tenth of the samples of every organ, and ``"train"`` for the others."""
    generator = numpy_stream(seed, "samples by organ")
    test: set[str] = set()
    for _, ids in metadata.groupby("organ", sort=True)["id"]:
        test |= set(generator.permutation(sorted(ids))[: round(TEST_SHARE * len(ids))].tolist())
    return pd.Series(np.where(metadata["id"].isin(test), "test", "train"), index=metadata.index)


def is_of_authors(metadata: pd.DataFrame) -> pd.Series:
    """Whether the authors kept a sample; one without an organ cannot be dealt, and is left out."""
    organ = metadata["organ"].astype("string").str.lower()
    return (
        (metadata["species"] == SPECIES)
        & (metadata["st_technology"] == TECHNOLOGY)
        & (metadata["nb_genes"] > MIN_GENES)
        & ~organ.str.contains("|".join(ORGANS)).fillna(value=True).astype(bool)
        & ~metadata["id"].isin(LEFT_OUT)
    )
