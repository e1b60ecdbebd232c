"""The facts of the slide tasks: complete, of known kinds, each with a source, and shown as what they are."""

from __future__ import annotations

import copy
from importlib.resources import files

import pytest

import spade as sp
from spade.tasks._read import FIGURES, TASKS
from spade.tasks._records import METRICS

NAMES = sp.tasks.list()["name"].tolist()


def check_sources(sources):
    assert sources
    for source in sources:
        assert source.text.strip() and source.read.strip()
        assert source.address.startswith("https://")


@pytest.mark.parametrize("name", NAMES)
def test_every_fact_is_of_a_known_kind_and_has_a_source(name):
    task = sp.tasks.get(name)
    assert task.name == name and task.title and task.paper in ("SPADE", "Patho-Bench")
    assert task.metric in METRICS[task.kind] + (METRICS["classes"] if task.kind == "ordinal" else ())
    check_sources(task.source)
    check_sources(task.data.source)
    if task.protocol.folds or task.protocol.shots or task.protocol.repeats:
        check_sources(task.protocol.source)
    assert (task.n_samples is None or task.unit is not None) and task.unit in (None, "case", "slide")
    assert task.data.address is None or task.data.address.startswith("https://")


@pytest.mark.parametrize("name", [name for name in NAMES if sp.tasks.get(name).rule])
def test_label_rules_name_their_columns_and_fit_the_target(name):
    task, rule = sp.tasks.get(name), sp.tasks.get(name).rule
    check_sources(rule.source)
    assert rule.table and rule.slide
    if task.kind == "survival":
        assert rule.time and rule.event and not rule.label and not rule.codes and task.n_classes is None
    else:
        assert rule.label and not rule.time and not rule.event
    if rule.codes:
        assert len(set(rule.classes)) == len(rule.classes) == task.n_classes


@pytest.mark.parametrize("name", [name for name in NAMES if sp.tasks.get(name).published])
def test_published_figures_have_a_source_and_a_place_in_it(name):
    for figure in sp.tasks.get(name).published:
        check_sources([figure.source])
        assert figure.encoder and figure.method and figure.where.startswith("Extended Data Table ")
        assert figure.metric == sp.tasks.get(name).metric
        assert -1 <= figure.value <= 1
        assert (figure.error is None) != (figure.low is None) and (figure.low is None) == (figure.high is None)
        assert figure.error is None or 0 < figure.error < 0.1
        assert figure.low is None or figure.low < figure.value < figure.high


def test_figures_are_those_of_the_paper():
    def value(name, encoder):
        table = sp.tasks.get(name).figures.set_index("encoder")
        return table.loc[encoder, ["value", "error", "low", "high"]].dropna().tolist()

    assert value("panda/isup_grade", "THREADS") == [0.915, 0.899, 0.929]
    assert value("cptac_luad/STK11_mutation", "Virchow, mean") == [0.864, 0.013]
    assert value("ebrains/diagnosis", "CONCHv1.5, mean") == [0.693, 0.646, 0.733]
    assert value("cptac_ccrcc/OS", "GigaPath, mean") == [0.675, 0.063]
    assert value("sr386_/mmr_loss_binary", "PRISM") == [0.883, 0.010]
    assert len(sp.tasks.get("mbc_/Recist").figures) == 6  # two lost their sign in the transcription


def test_tasks_are_those_of_the_code_and_of_the_benchmark():
    table = sp.tasks.list()
    assert table["paper"].value_counts().to_dict() == {"Patho-Bench": 42, "SPADE": 16}
    by_metric = table[table["paper"] == "Patho-Bench"]["metric"].value_counts().to_dict()
    assert by_metric == {"macro_auroc": 28, "c_index": 7, "balanced_accuracy": 4, "quadratic_kappa": 3}
    classes = table.set_index("name")["n_classes"]
    assert classes[["camelyon16", "panda", "ubc_ocean", "tcga_prad", "plco_breast"]].tolist() == [3, 6, 5, 4, 3]


def test_the_list_says_what_is_unknown():
    table = sp.tasks.list().set_index("name")
    assert not table["unknown"].eq("").any()
    assert table.loc["tcga_prad", "unknown"] == "licence, access, labels, shots, figures of SPADE"
    assert table.loc["tcga_prad", "licence"] == "unknown" and not table.loc["tcga_prad", "labels"]
    assert table.loc["camelyon16", "licence"] == "CC0"
    assert table.loc["bcnb/er", "n_classes"] is sp.tasks.list()["n_classes"].dtype.na_value
    assert table.loc["cptac_pda/OS", "published"] == 8 and table.loc["panda", "published"] == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_task_shows_itself_in_five_lines(name):
    task = sp.tasks.get(name)
    lines = repr(task).splitlines()
    assert lines[0] == f"{name} ({task.paper}): {task.title}" and len(lines) <= 5
    html = task._repr_html_()
    assert html.count("<br>") == len(lines) - 1 and len(html) < 800
    if task.rule is None:
        assert "labels: unknown" in repr(task)


def test_a_task_cannot_be_changed_and_can_be_copied():
    task = sp.tasks.get("imp/grade")
    with pytest.raises(AttributeError):
        task.metric = "macro_auroc"
    assert copy.deepcopy(task) == task == sp.tasks.get("imp/grade") and len({task, copy.copy(task)}) == 1


def test_an_unknown_name_is_answered_with_close_ones():
    with pytest.raises(KeyError, match=r"name='TP53' is not a task; .*TP53_mutation.*sp\.tasks\.list"):
        sp.tasks.get("TP53")
    with pytest.raises(KeyError, match="'camelyon16'"):
        sp.tasks.get("Camelyon 16")
    with pytest.raises((TypeError, ValueError), match="name="):
        sp.tasks.get(3)


def test_every_file_of_facts_is_read():
    there = {path.name for path in files("spade.tasks").joinpath("_facts").iterdir()}
    assert there == {f"{name}.toml" for name in (*TASKS, *FIGURES, "sources", "datasets")}
