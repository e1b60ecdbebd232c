"""What holds for every function of pp, whatever its settings: it writes its own keys, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from geopandas import GeoDataFrame
from helpers.attacks.invariants import contents, following, order_of, same, section, shuffled, unchanged
from helpers.whole_slides import MPP, pieces, slide_of
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import box

import spade as sp

FEW = settings(max_examples=6, deadline=None, derandomize=True, database=None)
DRAWN = GeoDataFrame({"label": ["in", "out"]}, geometry=[box(0, 0, 220, 400), box(220, 0, 400, 400)])
#: Function, settings drawn, and the keys that it writes, as functions of them. ``same``: results follow the rows.
CALLS = {
    "patches": st.fixed_dictionaries({"size_um": st.sampled_from([30, 40.5, 90]), "key_added": st.just("new_patches")}),
    "encode_patches": st.fixed_dictionaries(
        {"batch_size": st.integers(1, 50), "key_added": st.sampled_from(["X_new", "X_other"])}
    ),
    "select_genes": st.fixed_dictionaries(
        {
            "method": st.sampled_from(["spade", "seal"]),
            "n_top_genes": st.integers(1, 60),
            "min_genes": st.integers(1, 60),
            "fold_case": st.booleans(),
            "split_key": st.sampled_from([None, "part"]),
            "key_added": st.just("new"),
        }
    ),
    "smooth_expression": st.fixed_dictionaries(
        {
            "method": st.sampled_from(["lattice", "published"]),
            "share": st.floats(0.01, 1),
            "key_added": st.just("new"),
        }
    ),
    "spatial_context": st.fixed_dictionaries(
        {"use_rep": st.just("X_f"), "radius_um": st.sampled_from([10, 60, 500]), "key_added": st.just("X_new")}
    ),
    "split": st.fixed_dictionaries(
        {
            "fractions": st.sampled_from([(0.5, 0.5, 0), (0.7, 0, 0.3), (1, 0, 0)]),
            "groupby": st.sampled_from(["organ_of_section", None]),
            "rng": st.integers(0, 2**63 - 1),
            "key_added": st.just("new"),
        }
    ),
    "label_patches": st.fixed_dictionaries(
        {
            "annotations": st.just({f"s{number}": DRAWN for number in range(3)}),
            "by": st.sampled_from(["area", "centre"]),
            "min_share": st.floats(0.01, 1),
            "in_bounds": st.sampled_from([None, True, False]),
            "key_added": st.just("new"),
        }
    ),
}
WRITTEN = {
    "patches": {"spade_valid", "new_patches"},
    "encode_patches": {"X_new", "X_other"},
    "select_genes": {"new_gene"},
    "smooth_expression": {"new"},
    "spatial_context": {"X_new"},
    "split": {"new_split"},
    "label_patches": {"new", "new_share"},
}
#: Functions that write elements of their own, and what these are.
OF_SLIDES = {
    "tissue": st.fixed_dictionaries(
        {
            "min_area_mm2": st.sampled_from([0, 0.01, 0.1]),
            "drop_pen": st.booleans(),
            "key_added": st.just("new"),
        }
    ),
    "tiles": st.fixed_dictionaries(
        {
            "size_um": st.sampled_from([60, 112.5]),
            "size_px": st.just(32),
            "overlap_um": st.sampled_from([0, 20]),
            "max_blank": st.sampled_from([None, 0.9]),
            "tissue_key": st.sampled_from([None, "tissue"]),
            "key_added": st.just("new"),
        }
    ),
}
#: Squares of spots: a table and shapes of their own, which do not depend on the order of rows.
BINS = st.fixed_dictionaries(
    {"size_um": st.sampled_from([100, 150]), "from_": st.sampled_from(["cells", "bins"]), "key_added": st.just("new")}
)
ELEMENTS = {"tissue": {"new"}, "tiles": {"new", "new_table"}}
#: Functions whose choice of genes or draws may depend on the order of spots by rounding or by design.
NOT_BY_ROW = {"select_genes"}


def test_every_function_is_tried():
    assert set(CALLS) | set(OF_SLIDES) | {"bin_expression", "harmonize_genes"} == set(sp.pp.__all__)


@pytest.mark.filterwarnings("ignore:.*fewer than half of its genes are known")
@pytest.mark.parametrize("to", ["symbol", "ensembl"])
def test_names_of_genes_change_and_nothing_else(to):
    sdata = section(0)
    before, shapes = contents(sdata["table"].copy()), dict(sdata.shapes)
    sp.pp.harmonize_genes(sdata, own_species="human", to=to)
    after = contents(sdata["table"])
    assert set(after) - set(before) == {("var", "harmonized_from"), ("record", "harmonized_from")}
    for place, value in before.items():
        found = after[place]
        same(value.to_numpy(), found.to_numpy()) if place[0] == "var" else same(value, found)
    assert all(sdata[name] is element for name, element in shapes.items())


@FEW
@given(options=BINS, seed=st.integers(0, 1000))
def test_squares_are_new_elements_and_follow_no_order(options, seed):
    plain, mixed = section(0), shuffled(section(0), seed)
    before = contents(plain["table"].copy())
    for sdata in (plain, mixed):
        sp.pp.bin_expression(sdata, **options)
    assert set(plain.shapes) - set(section(0).shapes) == {"new"}
    same(contents(plain["table"]), before)
    same(contents(plain["new_table"]), contents(mixed["new_table"]))
    assert plain["new"].equals(mixed["new"])


@pytest.mark.parametrize("function", CALLS)
@FEW
@given(data=st.data())
def test_only_its_own_keys_change(function, data):
    options = data.draw(CALLS[function])
    samples = [section(i) for i in range(3)]
    with unchanged(samples, options, WRITTEN[function]):
        getattr(sp.pp, function)(samples, **options)


@pytest.mark.parametrize("function", OF_SLIDES)
@FEW
@given(data=st.data())
def test_only_its_own_elements_change(function, data):
    options = data.draw(OF_SLIDES[function])
    slide = slide_of(pieces()[0])
    sp.pp.tissue(slide, mpp=MPP)
    slide.tables["theirs"] = section(0)["table"]
    kept, given_options = {name: element for _, name, element in slide.gen_elements()}, dict(options)
    tissue, theirs = slide["tissue"].copy(), contents(slide["theirs"].copy())
    getattr(sp.pp, function)(slide, **options)
    assert {name for _, name, _ in slide.gen_elements()} - set(kept) == ELEMENTS[function]
    assert all(slide[name] is element for name, element in kept.items())
    assert slide["tissue"].equals(tissue)
    same(contents(slide["theirs"]), theirs)
    assert options == given_options


@pytest.mark.parametrize("function", sorted(set(CALLS) - NOT_BY_ROW))
@FEW
@given(data=st.data(), seed=st.integers(0, 1000))
def test_results_follow_the_rows(function, data, seed):
    options = data.draw(CALLS[function])
    plain, mixed = [section(i) for i in range(3)], [shuffled(section(i), seed + i) for i in range(3)]
    for samples in (plain, mixed):
        getattr(sp.pp, function)(samples, **options)
    for one, other in zip(plain, mixed, strict=True):
        following(one["table"], other["table"], WRITTEN[function])


@FEW
@given(options=CALLS["select_genes"], seed=st.integers(0, 1000))
def test_gene_panels_do_not_depend_on_the_order_of_rows(options, seed):
    panels = [
        sp.pp.select_genes(samples, **options)
        for samples in ([section(i) for i in range(3)], [shuffled(section(i), seed + i) for i in range(3)])
    ]
    assert panels[0].names == panels[1].names


@pytest.mark.parametrize("function", ["patches", "encode_patches", "label_patches"])
@FEW
@given(data=st.data(), n=st.integers(1, 35))
def test_rows_do_not_depend_on_other_rows(function, data, n):
    options = data.draw(CALLS[function])
    whole, part = section(0), section(0)
    part.tables["table"] = part["table"][order_of(36, n)[:n]].copy()
    for sdata in (whole, part):
        getattr(sp.pp, function)(sdata, **options | ({"annotations": DRAWN} if "annotations" in options else {}))
    following(part["table"], whole["table"], WRITTEN[function])


@pytest.mark.parametrize("function", ["encode_patches", "select_genes", "smooth_expression", "spatial_context"])
def test_threads_do_not_change_results(function):
    import numba

    from spade.core.distributed.threads import threads

    options = {
        "encode_patches": {"key_added": "X_new"},
        "select_genes": {"n_top_genes": 20, "key_added": "new"},
        "smooth_expression": {"key_added": "new"},
        "spatial_context": {"use_rep": "X_f", "radius_um": 60, "key_added": "X_new"},
    }[function]
    results = []
    most = numba.config.NUMBA_NUM_THREADS
    for n in (1, 2):
        sdata = section(0)
        with threads(n):
            numba.set_num_threads(min(n, most))
            getattr(sp.pp, function)(sdata, **options)
        results.append(sdata["table"])
    numba.set_num_threads(most)
    following(*results, WRITTEN[function])


def test_shuffling_is_seen():
    """The comparison itself: results that do not follow the rows are found."""
    one, other = section(0), shuffled(section(0), 1)
    one["table"].obsm["X_new"] = np.arange(36.0)[:, None]
    other["table"].obsm["X_new"] = np.arange(36.0)[:, None]
    with pytest.raises(AssertionError):
        following(one["table"], other["table"], {"X_new"})
