"""Search results on the tissue."""

from __future__ import annotations

import numpy as np
from helpers.sections import through_csv

import spade as sp


def test_a_search_from_a_file_is_drawn_alike(cohort, model):
    found = sp.tl.retrieve(list(model.genes.names[:3]), cohort, model, k=None)
    drawn, again = (sp.pl.retrieval(table, cohort) for table in (found, through_csv(found)))
    assert drawn.shape == again.shape == (2,)
    for one, other in zip(drawn, again, strict=True):
        np.testing.assert_allclose(one.collections[0].get_array(), other.collections[0].get_array())
