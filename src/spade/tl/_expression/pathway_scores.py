"""Scores of gene sets in the expression of every spot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from spade import _keys
from spade._checks import check_idle, plural, shorten
from spade._said.lines import size, speaks, wrote
from spade._samples.counts import log_expression
from spade._samples.open import Samples, as_list, iter_samples
from spade._samples.predicted import read_predicted
from spade._samples.sample import Sample, check_names
from spade.core.arrays import Floats
from spade.core.checks import check_choice, check_count, check_flag, check_text
from spade.core.errors import warn
from spade.core.files import digest
from spade.models._gene_names import MATCHING
from spade.tl._expression.gene_sets import SOURCE, TARGET, WEIGHT, Net, read_net

METHODS = ("ulm", "mlm", "aucell")
#: Values of expression that are scored at a time; decoupler holds several copies of them in float64.
MOST_VALUES = 2**24
#: Pathways that a warning names.
MOST_NAMED = 10


@speaks
def pathway_scores(
    samples: Samples,
    net: Net,
    *,
    predicted: str | None = None,
    layer: str | None = None,
    normalized: bool = False,
    method: str = "ulm",
    min_genes: int = 5,
    table_key: str | None = None,
    key_added: str = _keys.PATHWAYS,
) -> pd.DataFrame:
    """Score gene sets, signed or not, in the measured or predicted expression of every spot.

    The scores are those of decoupler, which the extra ``pathways`` installs. Nothing is downloaded.

    Parameters
    ----------
    samples
        A ``SpatialData``, a path to a zarr store, or a list or dict of these.
    net
        The gene sets. A DataFrame with the columns ``source`` (pathway), ``target`` (gene) and ``weight`` (without it:
        1), as decoupler has them; a dict from pathway to genes, or to a dict from gene to weight; or a path to a
        ``.gmt`` file. Genes are matched exactly.
    predicted
        Stem of the keys that :func:`predict_expression` wrote, such as ``"predicted"``, to score its prediction; None:
        measured expression.
    layer
        Layer with the measured expression; None: ``X``. Raw counts are log-normalised over all genes.
    normalized
        Whether these values are normalised already and taken as they are.
    method
        ``"ulm"``: the t-value of the slope of a linear regression of a spot's expression, over all genes, on the
        weights of one pathway (0 for genes outside). ``"mlm"``: the same with all pathways in one regression, for
        pathways that share genes. ``"aucell"``: how early the genes of a set come in the ranking of a spot, from 0 to
        1; for sets without weights.
    min_genes
        Smallest number of genes of a pathway that every sample must have. Pathways with fewer are left out of all
        samples, with a warning, so that all get the same columns.
    table_key
        Table; may be left out when there is one.
    key_added
        ``obsm`` key.

    Returns
    -------
    DataFrame
        A row per sample and pathway: ``sample``, ``pathway``, ``n_genes`` in the set, ``n_found`` in the sample, and
        whether it was ``scored``. Writes ``obsm["pathways"]``, float32 ``(n_obs, n_pathways)``, and the names of the
        columns in ``uns["pathways_names"]``. Rows of spots without counts, or without a prediction, are NaN.

    Raises
    ------
    ImportError
        decoupler is not installed.
    KeyError
        No such layer, prediction or column of ``net``.
    ValueError
        Expression that is not raw counts, or no pathway with ``min_genes`` genes; sets that are empty, repeated or
        damaged; weights with ``"aucell"``; pathways that ``"mlm"`` cannot tell apart.

    Notes
    -----
    A score compares the genes of a pathway with all other genes: with those of the table, also where they have no
    counts, or with the predicted ones. A prediction of a small panel therefore scores pathways against this panel, not
    against the transcriptome; a pathway consists of those of its genes that are in the panel; and highly variable genes
    are no neutral background. Compare predicted with measured scores by their correlation over spots, not by value.

    The score of a spot does not depend on other spots. Of equal values, as of genes without counts, ``"aucell"`` draws
    the order by a fixed seed.

    References: Badia-i-Mompel et al., Bioinformatics Advances 2022 (``"ulm"``, ``"mlm"``); Aibar et al., Nature Methods
    2017 (``"aucell"``).

    Examples
    --------
    >>> import pandas as pd
    >>> import spade as sp
    >>> sample = sp.datasets.toy(1, 40)[0]
    >>> genes = list(sample["table"].var_names)
    >>> net = {"one": genes[:20], "against": dict.fromkeys(genes[20:30], 1.0) | dict.fromkeys(genes[30:40], -1.0)}
    >>> sp.tl.pathway_scores(sample, net)["n_found"].tolist()
    [20, 20]
    >>> table = sample["table"]
    >>> scores = pd.DataFrame(table.obsm["pathways"], table.obs_names, table.uns["pathways_names"])
    >>> table.obs["against"] = scores["against"]

    A column of ``obs`` is drawn by ``sp.pl.expert_clusters(sample, color="against", entropy=False)``.
    """
    check_choice("method", method, METHODS)
    check_count("min_genes", min_genes)
    check_flag("normalized", normalized)
    _keys.check_key(key_added)
    if predicted is not None:
        check_text("predicted", predicted)
        check_idle([("layer", layer, None), ("normalized", normalized, False)], "predicted= reads no measurement")
        if key_added in (_keys.predicted(predicted), _keys.predicted_deviation(predicted)):
            raise ValueError(
                f"key_added={key_added!r} would replace the prediction that is scored; choose another key."
            )
    decoupler = _import_decoupler()
    sets = read_net(net)
    if method == "aucell" and (sets[WEIGHT] != 1).any():
        raise ValueError(
            'method="aucell" scores sets without weights, but net has weights other than 1, whose signs would be lost. '
            'Use method="ulm", or score the genes of each sign as a set of their own.'
        )
    listed = as_list(samples, writes=True)
    where = _Where(predicted, layer, normalized)
    genes = [_genes(sample, sets, where) for sample in iter_samples(listed, table_key=table_key, tables_only=True)]
    check_names(one.sample for one in genes)
    found = _found(genes, sets)
    kept = _kept(found, sets, genes, min_genes)
    scored = sets[sets[SOURCE].isin(kept)]
    net_id = digest(scored.sort_values([SOURCE, TARGET]).to_csv(index=False))
    for one in genes:
        _check_background(one, scored, method)
    for sample in tqdm(
        iter_samples(listed, table_key=table_key, writes=True), total=len(listed), desc="scoring", unit="sample"
    ):
        table, expression = sample.table, _read(sample, where)
        scores = np.full((table.n_obs, len(kept)), np.nan, dtype=np.float32)
        scores[expression.obs_names.astype(int)] = _scores(decoupler, expression, scored, kept, method)
        table.obsm[key_added] = scores
        table.uns[_keys.pathway_names(key_added)] = np.array(kept)
        sources = [name for name in where.read if name in table.uns.get(_keys.UNS, {})]
        _keys.write_provenance(
            table.uns, key_added, *sources, function=_keys.PATHWAY_SCORING, method=method, min_genes=min_genes,
            net=net_id, n_pathways=len(kept), n_genes=expression.n_vars, layer=layer, predicted=predicted,
            normalized=normalized,
        )  # fmt: skip
        sample.save()
        wrote(sample.name, f"obsm[{key_added!r}]", detail=size(scores))
    return found.assign(scored=found["pathway"].isin(kept))


class _Where(NamedTuple):
    """Where expression is: a prediction, or a layer."""

    predicted: str | None
    layer: str | None
    normalized: bool

    @property
    def read(self) -> list[str]:
        """Keys that are read."""
        return [_keys.predicted(self.predicted)] if self.predicted else [self.layer] if self.layer else []


class _Genes(NamedTuple):
    """Number of genes of a sample, a few of them, and those that any pathway names."""

    sample: str
    n: int
    first: list[str]
    found: frozenset[str]


def _read(sample: Sample, where: _Where) -> ad.AnnData:
    """Return log expression of the spots that have any, named by their rows, with genes in the order of their names."""
    if where.predicted is not None:
        frame = read_predicted(sample, where.predicted, argument="predicted").reset_index(drop=True).dropna()
        names = pd.DataFrame(index=frame.columns.astype(str))
        expression = ad.AnnData(frame.to_numpy(), obs=pd.DataFrame(index=frame.index.astype(str)), var=names)
    elif sample.has_expression:
        expression = log_expression(sample, where.layer, normalized=where.normalized)
    else:
        raise ValueError(
            f"{sample.name}: has no expression (table of width 0). Leave it out, or predict its expression with "
            "sp.tl.predict_expression and name it with predicted=."
        )
    return expression[:, np.argsort(expression.var_names.to_numpy(dtype=str), kind="stable")]


def _genes(sample: Sample, sets: pd.DataFrame, where: _Where) -> _Genes:
    names = _read(sample, where).var_names
    return _Genes(sample.name, len(names), list(names[:3]), frozenset(set(sets[TARGET]) & set(names)))


def _found(genes: Sequence[_Genes], sets: pd.DataFrame) -> pd.DataFrame:
    """Return how many genes of every pathway each sample has; a row per sample and pathway."""
    pathways = list(dict.fromkeys(sets[SOURCE]))
    n_genes = sets.groupby(SOURCE)[TARGET].size()
    parts = []
    for one in genes:
        n_found = sets[sets[TARGET].isin(one.found)].groupby(SOURCE)[TARGET].size().reindex(pathways, fill_value=0)
        parts.append(
            pd.DataFrame(
                {
                    "sample": one.sample,
                    "pathway": pathways,
                    "n_genes": n_genes[pathways].to_numpy(),
                    "n_found": n_found.to_numpy(),
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def _kept(found: pd.DataFrame, sets: pd.DataFrame, genes: Sequence[_Genes], min_genes: int) -> list[str]:
    """Return the pathways that every sample has enough genes of; warn of the others, or raise if none is left."""
    fewest = found.loc[found.groupby("pathway", sort=False)["n_found"].idxmin()]
    few = fewest[fewest["n_found"] < min_genes]
    if len(few) == len(fewest):
        best = few.loc[few["n_found"].idxmax()]
        listed = "; ".join(f"{one.sample}: {one.n} genes such as {', '.join(one.first)}" for one in genes[:3])
        raise ValueError(
            f"net: no pathway has min_genes={min_genes} genes in every sample; {best['pathway']!r} has most, "
            f"{best['n_found']} of {best['n_genes']} in {best['sample']} (net: genes such as "
            f"{', '.join(sets[TARGET].iloc[:3])}; {listed}). {MATCHING[False]} Are net and samples of different "
            "species, or is one named by symbol and the other by Ensembl id?"
        )
    if len(few):
        counts = [f"{row.pathway} ({row.n_found} of {row.n_genes} in {row.sample})" for row in few.itertuples()]
        warn(
            f"{plural(len(few), 'pathway')} with fewer than min_genes={min_genes} genes in a sample left out: "
            f"{', '.join(counts[:MOST_NAMED])}{', …' if len(few) > MOST_NAMED else ''}."
        )
    return [name for name in fewest["pathway"] if name not in set(few["pathway"])]


def _check_background(genes: _Genes, sets: pd.DataFrame, method: str) -> None:
    """Raise if a pathway, or all of them together, cannot be told from the background."""
    if method == "aucell":
        return
    design = sets[sets[TARGET].isin(genes.found)].pivot(index=TARGET, columns=SOURCE, values=WEIGHT).fillna(0)
    whole = len(design) == genes.n
    if flat := [name for name in design if whole and design[name].nunique() == 1]:
        raise ValueError(
            f"net: {shorten(flat, 3)} gives all {genes.n} genes of {genes.sample} one weight, so there are no others "
            "to compare with. Leave it out, or score expression of more genes."
        )
    columns = np.column_stack([np.ones(len(design) + (not whole)), np.pad(design.to_numpy(), ((0, not whole), (0, 0)))])
    n_fitted = 2 if method == "ulm" else columns.shape[1]
    if genes.n <= n_fitted:
        raise ValueError(
            f"{genes.sample}: {plural(genes.n, 'gene')} are too few for a regression with {n_fitted} coefficients "
            f"(method={method!r}). Score expression of more genes, or fewer pathways."
        )
    if method == "mlm" and np.linalg.matrix_rank(columns) < n_fitted:
        raise ValueError(
            f"net: in {genes.sample} some of the {len(design.columns)} pathways are the same or sums of others, so "
            'method="mlm" cannot tell them apart. Leave some out, or use method="ulm".'
        )


def _scores(decoupler: Any, expression: ad.AnnData, sets: pd.DataFrame, pathways: list[str], method: str) -> Floats:
    """Return the scores ``(n, n_pathways)`` of all spots, some at a time."""
    scores = np.empty((expression.n_obs, len(pathways)))
    found = sets[sets[TARGET].isin(set(expression.var_names))]
    step = max(1, MOST_VALUES // expression.n_vars)
    for start in range(0, expression.n_obs, step):
        part = expression[start : start + step].copy()
        getattr(decoupler.mt, method)(part, found, tmin=0, empty=False)
        scores[start : start + step] = part.obsm[f"score_{method}"][pathways].to_numpy()
    return scores


def _import_decoupler() -> Any:
    """Return the library, or raise with how to install it."""
    try:
        import decoupler
    except ImportError as error:
        raise ImportError(
            "pathway_scores needs decoupler, which is not installed: pip install 'spade-st[pathways]' (or decoupler "
            "itself, 2.2 or later)."
        ) from error
    return decoupler
