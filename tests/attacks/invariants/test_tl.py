"""What holds for every function of tl, whatever its settings: it writes its own keys, and nothing else changes."""

from __future__ import annotations

from functools import cache

import numpy as np
import pandas as pd
import pytest
from helpers.attacks.invariants import contents, following, order_of, same, section, shuffled, unchanged
from helpers.sections import GENES, train
from hypothesis import given, settings
from hypothesis import strategies as st

import spade as sp

FEW = settings(max_examples=5, deadline=None, derandomize=True, database=None)
SMALL = {"n_epochs": 1, "batch_size": 16, "dim": 8}
drawn = st.fixed_dictionaries
SEEDS = st.integers(0, 2**63 - 1)


@cache
def model():
    return train([section(0), section(1)], n_epochs=1)


def cohort(n: int = 2):
    samples = [section(i) for i in range(n)]
    for number, sdata in enumerate(samples):
        table = sdata["table"]
        table.obs["spade_cluster"] = pd.Categorical([str((number + i) % 2) for i in range(table.n_obs)])
    return samples


#: Function: settings drawn, and the keys written into the table.
CALLS = {
    "annotate": (
        drawn({"label_key": st.just("organ"), "use_rep": st.sampled_from(["X_f", ("X_f", "X_theirs")]),
               "classifier": st.sampled_from(["linear", "knn"]), "rng": SEEDS, "key_added": st.just("new")}),
        {"new", "new_probability", "new_uncertainty"},
    ),
    "cluster_experts": (
        drawn({"use_rep": st.just("X_f"), "groupby": st.sampled_from([None, "organ_of_section"]),
               "n_prototypes": st.integers(1, 5), "n_experts": st.just(1), "rng": SEEDS, "key_added": st.just("new"),
               "split_key": st.sampled_from([None, "part"]),
               "feature_scaling": st.sampled_from(["standard", "none"])}),
        {"new_prototype", "new_cluster"},
    ),
    "embed": (
        drawn({"mix": st.sampled_from(["mean", "concat"]), "min_overlap": st.floats(0.01, 1),
               "key_added": st.just("new")}),
        {"X_new", "X_new_image", "X_new_expression", "new_expert_weights", "new_expert", "new_entropy"},
    ),
    "expert_agreement": (drawn({"label_key": st.sampled_from(["organ", "organ_of_section", "part"])}), set()),
    "expert_composition": (
        drawn({"by": st.sampled_from(["organ", "part"]), "unit": st.sampled_from([None, "organ"]),
               "n_boot": st.integers(1, 20), "rng": SEEDS}),
        set(),
    ),
    "expression_benchmark": (
        drawn({"use_rep": st.just("X_f"), "groupby": st.just(None), "n_genes": st.integers(1, 5),
               "protocol": st.sampled_from(["hest", "sound"])}),
        set(),
    ),
    "expression_trust": (
        drawn({"method": st.just("ridge"), "use_rep": st.just("X_f"), "alpha": st.sampled_from([1.0, "cv"]),
               "scaling": st.sampled_from(["reference", "section"]), "n_boot": st.integers(1, 20), "rng": SEEDS}),
        set(),
    ),
    "few_shot": (
        drawn({"label_key": st.just("organ"), "use_rep": st.just("X_f"), "shots": st.sampled_from([(1,), (1, 2)]),
               "n_repeats": st.integers(1, 2), "groupby": st.sampled_from([None, "patient"]), "rng": SEEDS}),
        set(),
    ),
    "mixing": (drawn({"use_rep": st.just("X_f"), "n_neighbors": st.integers(1, 40)}), set()),
    "pathway_scores": (
        drawn({"net": st.just({"one": list(GENES[:9]), "two": list(GENES[6:20])}),
               "method": st.sampled_from(["ulm", "aucell"]), "min_genes": st.integers(1, 9),
               "key_added": st.just("new")}),
        {"new", "new_names"},
    ),
    "predict_expression": (
        drawn({"method": st.just("ridge"), "use_rep": st.just("X_f"), "alpha": st.sampled_from([1.0, 100.0]),
               "genes": st.sampled_from([None, ["G03", "G01"]]), "key_added": st.just("new")}),
        {"X_new", "X_new_deviation", "new_genes"},
    ),
    "rank_expert_genes": (
        drawn({"method": st.sampled_from(["wilcoxon", "t-test"]), "n_genes": st.sampled_from([None, 1, 7]),
               "min_spots": st.integers(2, 10)}),
        set(),
    ),
    "retrieval_metrics": (
        drawn({"k": st.integers(1, 50), "mix": st.sampled_from(["concat", "logits"]),
               "split_key": st.sampled_from([None, "part"]), "part": st.just("val")}),
        set(),
    ),
    "retrieve": (
        drawn({"query_by": st.sampled_from(["image", "expression"]), "k": st.sampled_from([None, 1, 5]),
               "same_section": st.booleans(), "mix": st.sampled_from(["concat", "logits"])}),
        set(),
    ),
    "routing_scores": (drawn({"key_added": st.just("new")}), {"new_entropy", "new_distance"}),
    "slide_embedding": (
        drawn({"use_rep": st.sampled_from(["X_f", ("X_f", "X_theirs")]),
               "slide_key": st.sampled_from([None, "organ_of_section"])}),
        set(),
    ),
    "switchboard": (
        drawn({"use_rep": st.just("X_f"), "genes": st.just(list(GENES[:8])), "groupby": st.just(None),
               "variants": st.just(["spade"]), "control": st.just(False), "k": st.integers(1, 5), "rng": SEEDS,
               "spade_settings": st.just({"n_prototypes": 2, "n_experts": 1, **SMALL})}),
        set(),
    ),
    "train_programs": (
        drawn({"use_rep": st.sampled_from(["X_f", ("X_f", "X_theirs")]), "n_clusters": st.just((3,)),
               "n_programs": st.integers(0, 2), "targets": st.just("expression"), "shuffle_pairs": st.booleans(),
               "split_key": st.sampled_from([None, "part"]), "rng": SEEDS}),
        set(),
    ),
    "train_seal": (
        drawn({"on_features": st.just("X_f"), "genes": st.just(list(GENES[:8])), "n_epochs": st.just(1),
               "dim": st.just(8), "hidden": st.just(8), "batch_size": st.integers(8, 40), "rng": SEEDS,
               "split_key": st.sampled_from([None, "part"]), "shuffle_pairs": st.booleans()}),
        set(),
    ),
    "train_spade": (
        drawn({"use_rep": st.just("X_f"), "genes": st.just(list(GENES[:8])), "n_prototypes": st.integers(1, 4),
               "n_experts": st.just(1), "split_key": st.sampled_from([None, "part"]), "rng": SEEDS,
               "cluster_space": st.sampled_from(["image", "joint"]),
               **{name: st.just(value) for name, value in SMALL.items()}}),
        set(),
    ),
    "umap": (
        drawn({"use_rep": st.sampled_from(["X_f", "X_theirs"]), "n_neighbors": st.integers(2, 40), "rng": SEEDS}),
        {"X_f_umap", "X_theirs_umap"},
    ),
}  # fmt: skip
#: Functions of slides, which need more sections, and of result tables, which have no samples.
SLIDES = {"attention", "slide_task", "survival"}
TABLES = {"expression_summary", "few_shot_summary", "survival_summary", "switchboard_summary"}
#: Functions that write images.
IMAGES = {"score_image"}
WITH_MODEL = {"embed", "retrieval_metrics", "routing_scores"}
#: Functions whose results are rows of a table and do not depend on the order of the spots. Draws, batches and starts of
#: k-means follow the order of the rows, so few-shot tables and models do depend on it.
UNORDERED = ("expert_agreement", "expression_trust", "mixing", "rank_expert_genes", "retrieval_metrics")


def run(function, samples, options):
    if function == "predict_expression":
        return sp.tl.predict_expression(samples, reference=[section(2)], **options)
    if function == "retrieve":
        return sp.tl.retrieve(samples, samples, model(), **options)
    if function == "expression_trust":
        return sp.tl.expression_trust(samples, **options)
    first = (samples, model()) if function in WITH_MODEL else (samples,)
    return getattr(sp.tl, function)(*first, **options)


def test_every_function_is_tried():
    assert {*CALLS, *SLIDES, *TABLES, *IMAGES} == set(sp.tl.__all__)


@pytest.mark.parametrize("function", CALLS)
@FEW
@given(data=st.data())
def test_only_its_own_keys_change(function, data):
    strategy, written = CALLS[function]
    options = data.draw(strategy)
    samples = cohort()
    with unchanged(samples, options, written):
        run(function, samples, options)


@pytest.mark.parametrize("function", ["annotate", "embed", "pathway_scores", "predict_expression", "routing_scores"])
@FEW
@given(data=st.data(), seed=st.integers(0, 1000))
def test_results_follow_the_rows(function, data, seed):
    strategy, written = CALLS[function]
    options = data.draw(strategy)
    plain, mixed = cohort(), [shuffled(sdata, seed + i) for i, sdata in enumerate(cohort())]
    for samples in (plain, mixed):
        run(function, samples, options)
    for one, other in zip(plain, mixed, strict=True):
        following(one["table"], other["table"], written - {"new_genes", "new_names"}, rtol=1e-3)


@pytest.mark.parametrize("function", UNORDERED)
@FEW
@given(data=st.data(), seed=st.integers(0, 1000))
def test_tables_do_not_depend_on_the_order_of_rows(function, data, seed):
    options = data.draw(CALLS[function][0])
    tables = [
        run(function, samples, options)
        for samples in (cohort(), [shuffled(sdata, seed + i) for i, sdata in enumerate(cohort())])
    ]
    keys = list(tables[0].select_dtypes(exclude="number").columns)
    one, other = (table.sort_values(keys).reset_index(drop=True) if keys else table for table in tables)
    pd.testing.assert_frame_equal(one, other, rtol=1e-3, atol=1e-6)


def outcome(function, samples):
    """What a function gives, as bytes."""
    result = run(function, samples, ORDERED[function])
    if function == "cluster_experts":
        return np.sort(result.centroids, axis=0).tobytes()
    return result["value"].to_numpy().tobytes() if function == "few_shot" else result.id


#: Functions whose results depend on the order of the rows, with settings.
ORDERED = {
    "cluster_experts": {"use_rep": "X_f", "n_prototypes": 5, "n_experts": 2},
    "few_shot": {"label_key": "organ", "use_rep": "X_theirs", "shots": (1,), "n_repeats": 2},
    "train_seal": {"on_features": "X_f", "genes": list(GENES[:8]), "n_epochs": 1, "dim": 8, "hidden": 8},
    "train_spade": {"use_rep": "X_f", "genes": list(GENES[:8]), "n_prototypes": 2, "n_experts": 1, **SMALL},
}


@pytest.mark.parametrize("function", ORDERED)
def test_results_that_depend_on_the_order_of_rows_say_so(function):
    plain, again, mixed = cohort(), cohort(), [shuffled(sdata, 5 + i) for i, sdata in enumerate(cohort())]
    assert outcome(function, plain) == outcome(function, again)
    assert outcome(function, plain) != outcome(function, mixed)
    assert "the order of the rows" in " ".join(getattr(sp.tl, function).__doc__.split())


@pytest.mark.parametrize("function", ["embed", "pathway_scores", "predict_expression", "routing_scores"])
@FEW
@given(data=st.data(), n=st.integers(1, 35))
def test_rows_do_not_depend_on_other_rows(function, data, n):
    strategy, written = CALLS[function]
    options = data.draw(strategy)
    whole, part = section(0), section(0)
    part.tables["table"] = part["table"][order_of(36, n)[:n]].copy()
    for sdata in (whole, part):
        run(function, [sdata], options)
    following(part["table"], whole["table"], written - {"new_genes", "new_names"}, rtol=1e-3)


@pytest.mark.parametrize("function", sorted(SLIDES))
def test_slides_stay_as_they_are(function):
    samples = []
    for number in range(6):
        sdata = section(number % 3)
        sdata.attrs["spade"]["sample"] = f"p{number}"
        sdata["table"].obs["kind"] = pd.Categorical(["ab"[number % 2]] * 36)
        sdata["table"].obs["time"], sdata["table"].obs["event"] = float(number + 1), number % 3 > 0
        samples.append(sdata)
    options = {"use_rep": "X_f", "groupby": None}
    options |= {
        "attention": {"label_key": "kind", "hidden": 8, "n_epochs": 1, "key_added": "new"},
        "slide_task": {"label_key": "kind", "n_folds": 2},
        "survival": {"time_key": "time", "event_key": "event", "n_folds": 2, "n_bins": 2},
    }[function]
    written = {"new", "new_predicted"} if function == "attention" else set()
    with unchanged(samples, options, written):
        getattr(sp.tl, function)(samples, **options)


@pytest.mark.parametrize("color", ["organ", "theirs", "G03", "X_f:1"])
def test_images_of_values_leave_the_table_as_it_is_and_follow_the_rows(color):
    plain, mixed = section(0), shuffled(section(0), 3)
    before = contents(plain["table"].copy())
    for sdata in (plain, mixed):
        sp.tl.score_image(sdata, color, key_added="new", um_per_px=5)
    after = contents(plain["table"])
    assert before.keys() == after.keys()
    for key, value in before.items():
        same(value, after[key])
    np.testing.assert_array_equal(*(next(iter(sdata["new"].values()))["image"] for sdata in (plain, mixed)))


def results(function, table):
    given = table.copy(deep=True)
    found = getattr(sp.tl, function)(table, n_boot=20)
    pd.testing.assert_frame_equal(table, given)
    return found


def test_summaries_do_not_change_their_tables():
    few = sp.tl.few_shot(cohort(), label_key="organ", use_rep="X_f", shots=(1, 2), n_repeats=2)
    bench = sp.tl.expression_benchmark(cohort(), use_rep="X_f", groupby=None, n_genes=4)
    risks = pd.DataFrame({"representation": "a", "repeat": 0, "fold": [0, 0, 1, 1], "patient": [*"abcd"],
                          "time": [1.0, 2, 3, 4], "event": [True, True, False, True], "risk": range(4)})  # fmt: skip
    board = run("switchboard", cohort(), {"use_rep": "X_f", "genes": list(GENES[:8]), "groupby": None, "k": 3,
                "variants": ["spade"], "control": False,
                "spade_settings": {"n_prototypes": 2, "n_experts": 1, **SMALL}})  # fmt: skip
    for function, table in (("few_shot_summary", few), ("expression_summary", bench), ("survival_summary", risks),
                            ("switchboard_summary", board)):  # fmt: skip
        assert len(results(function, table))


@pytest.mark.parametrize("function", ["embed", "predict_expression", "routing_scores", "annotate"])
def test_threads_do_not_change_results(function):
    from spade.core.distributed.threads import threads

    options = {
        "annotate": {"label_key": "organ", "use_rep": "X_f", "key_added": "new"},
        "predict_expression": {"method": "ridge", "use_rep": "X_f", "key_added": "new"},
    }.get(function, {"key_added": "new"})
    tables = []
    for n in (1, 2):
        samples = cohort()
        with threads(n):
            run(function, samples, options)
        tables.append(samples[0]["table"])
    following(*tables, CALLS[function][1] - {"new_genes"})


@pytest.mark.parametrize("method", ["spade", "seal"])
def test_threads_do_not_change_models(method):
    from spade.core.distributed.threads import threads

    models = []
    for n in (1, 2):
        with threads(n):
            if method == "spade":
                models.append(train(cohort(), n_epochs=1))
            else:
                sizes = {"n_epochs": 1, "dim": 8, "hidden": 8, "batch_size": 16}
                models.append(sp.tl.train_seal(cohort(), on_features="X_f", genes=list(GENES[:8]), **sizes))
    x = section(0)["table"].obsm["X_f"]
    np.testing.assert_allclose(models[0].encode_image(x), models[1].encode_image(x), rtol=1e-4, atol=1e-5)
