"""Three sections to predict expression of, and what was predicted."""

from __future__ import annotations

from helpers.sections import featured
from spade._samples.open import iter_samples
from spade._samples.predicted import read_predicted
from spade.core.expression.normalise import log_normalise

RIDGE = {"method": "ridge", "use_rep": "X_f"}


def cohort():
    return [featured(name="a"), featured(name="b", seed=1), featured(name="c", seed=2)]


def truth_of(sample, genes):
    table = sample["table"]
    return log_normalise(table.X.tocsr())[:, table.var_names.get_indexer(list(genes))].toarray()


def predicted(sample, key="predicted"):
    return read_predicted(next(iter_samples(sample)), key)
