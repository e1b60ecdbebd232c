"""Pages of facts: every key that is written, every function, and the text of every message."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pandas as pd
import pytest
from helpers.whole_slides import MPP, pieces, slide_of

import spade as sp

ROOT = Path(__file__).parents[2]
KEY = re.compile(r'`(obs|obsm|var|layers|uns|shapes|images|tables|attrs)\["([^"]+)"\]`')
#: What stands for a name of the user's, on the page and in the workflow below.
NAMES = {"<encoder>": "texture", "<label>": "label", "<value>": "spade_entropy"}


#: Keys that the workflow or TableModel brings, not a function of the package.
OWN = re.compile(r"plain|^piece$|^region$|^spatialdata_attrs$|_id$|^label$")


def page_keys() -> dict[tuple[str, str], str]:
    """Keys of the page, and what the row says of their type."""
    found = {}
    for line in (ROOT / "docs" / "output_keys.md").read_text().splitlines():
        if not line.startswith("| `"):
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        for kind, key in KEY.findall(cells[0]):
            for placeholder, name in NAMES.items():
                key = key.replace(placeholder, name)
            found[kind, key] = cells[1]
    return found


def keys_of(sdata) -> dict[tuple[str, str], object]:
    """Everything that lies in an object, by kind and name; newer versions of anndata call X the layer None."""
    found = {
        (kind, key): value for kind in ("shapes", "images", "tables") for key, value in getattr(sdata, kind).items()
    }
    found |= {("attrs", key): value for key, value in sdata.attrs.items()}
    for table in sdata.tables.values():
        for kind in ("obs", "obsm", "var", "layers", "uns"):
            found |= {(kind, key): getattr(table, kind)[key] for key in getattr(table, kind) if key is not None}
    return found


def kind_of(value) -> str:
    """What the page should call a value of a column or array."""
    if isinstance(value, pd.Series):
        dtype = value.dtype
        if isinstance(dtype, pd.CategoricalDtype):
            return "category"
        if pd.api.types.is_bool_dtype(dtype):
            return "bool"
        if pd.api.types.is_integer_dtype(dtype):
            return "integer"
        return "float" if pd.api.types.is_float_dtype(dtype) else "text"
    return ""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """What the workflow wrote, by kind and name: into sections, a slide, and squares of cells."""
    samples = sp.datasets.toy(2, 60, n_genes=60)
    before = set(keys_of(samples[0]))
    for sample in samples:
        rows = sample["table"].obs["domain"].index[::6]
        sample["table"].obs["label"] = sample["table"].obs["domain"].where(sample["table"].obs.index.isin(rows))
    sp.pp.patches(samples)
    sp.pp.encode_patches(samples)
    sp.pp.spatial_context(samples, use_rep="X_texture")
    sp.pp.smooth_expression(samples)
    sp.pp.split(samples, fractions=(0.5, 0, 0.5))
    panel = sp.pp.select_genes(samples, n_top_genes=30)
    sp.tl.cluster_experts(samples, use_rep="X_texture", n_prototypes=4, n_experts=2)
    settings = {"use_rep": "X_texture", "genes": panel, "n_experts": 2, "n_epochs": 1, "batch_size": 16}
    gated = sp.tl.train_spade(samples, routing="learned", **settings)
    sp.tl.embed(samples, gated)
    sp.tl.embed(samples, sp.tl.train_seal(samples, on_features="X_texture", genes=panel, n_epochs=1, batch_size=16))
    sp.tl.embed(samples, sp.tl.train_programs(samples, use_rep="X_texture", genes=panel, n_clusters=(3,), n_programs=2))
    model = sp.tl.train_spade(samples, **settings)
    sp.tl.embed(samples, model, key_added="plain")
    sp.tl.routing_scores(samples, gated)
    sp.tl.predict_expression(samples, use_rep="X_texture", method="ridge", genes=panel.names[:3], reference=samples)
    sp.tl.annotate(samples, label_key="label", use_rep="X_texture")
    net = pd.DataFrame({"source": "set", "target": panel.names[:8]})
    sp.tl.pathway_scores(samples, net)
    sp.tl.score_image(samples, "spade_entropy")
    one = samples[0]
    sp.tl.few_shot(one, label_key="domain", use_rep="X_texture", shots=(1,), n_repeats=2)
    sp.tl.rank_expert_genes(one, key="plain", min_spots=2)
    slides_of_spots(one)
    sp.pp.bin_expression(one, size_um=200, from_="cells", table_key="table")
    sp.pp.harmonize_genes(one, own_species="human", table_key="table")
    slide = slide_of(pieces()[0])
    sp.pp.tissue(slide, mpp=MPP)
    sp.pp.tiles(slide, size_um=100, size_px=50, max_blank=0.9, min_sharpness=1.0)
    sp.io.write(slide, tmp_path_factory.mktemp("slide") / "slide.zarr")
    found = {key: value for key, value in keys_of(one).items() if key not in before}
    found |= {key: value for key, value in keys_of(slide).items() if key[0] != "images"}
    return {key: value for key, value in found.items() if not OWN.search(key[1])}


def slides_of_spots(one) -> None:
    """Take pieces of a section as slides with a label, and train heads on them."""
    obs = one["table"].obs
    obs["piece"] = [f"piece {i % 8}" for i in range(len(obs))]
    known = obs["label"]
    obs["label"] = [f"class {i % 2}" for i in range(len(obs))]
    task = {"label_key": "label", "use_rep": "X_texture", "slide_key": "piece", "groupby": None, "table_key": "table"}
    sp.tl.slide_task(one, n_folds=2, **task)
    sp.tl.attention(one, n_epochs=1, **task)
    obs["label"] = known


@pytest.mark.slow
def test_every_key_that_is_written_is_on_the_page(written):
    known = page_keys()
    assert sorted(set(written) - set(known)) == []
    for key, value in written.items():
        assert kind_of(value) in known[key], key
        if key[0] == "obsm" and key[1] != "spatial":
            assert value.ndim == 2 and str(value.dtype) == "float32", key


# --- messages


def template(node: ast.AST) -> str | None:
    """Text of a string, with … for what is put in."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def test_every_heading_of_troubleshooting_is_a_message():
    headings = re.findall(r"^### (.+)$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(headings) >= 25
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        texts += [text for node in ast.walk(ast.parse(path.read_text())) if (text := template(node))]
    assert [heading for heading in headings if not any(heading in text for text in texts)] == []


# --- functions


MODULES = (sp.datasets, sp.io, sp.encoders, sp.pp, sp.tl, sp.models, sp.tasks, sp.pl)
#: Every public function, such as ``tl.embed``.
FUNCTIONS = [
    f"{module.__name__.removeprefix('spade.')}.{name}"
    for module in MODULES
    for name in module.__all__
    if inspect.isroutine(getattr(module, name))
]


def functions_of_readme() -> set[str]:
    """Functions in the tables of the README; those after the first of a row are without their module."""
    found = set()
    for line in (ROOT / "README.md").read_text().splitlines():
        module = ""
        for name in re.findall(r"`([\w.]+)`", line.split("|")[2]) if line.count("|") == 4 else ():
            module = name.removeprefix("sp.").rpartition(".")[0] if name.startswith("sp.") else module
            found.add(f"{module}.{name.rpartition('.')[2]}")
    return found


def test_every_function_is_among_the_questions():
    page = (ROOT / "docs" / "which_function.md").read_text()
    assert "tl.embed" in FUNCTIONS
    assert [name for name in FUNCTIONS if f"{{func}}`spade.{name}`" not in page] == []


def test_every_function_is_in_the_table_of_the_readme():
    assert [name for name in FUNCTIONS if name not in functions_of_readme()] == []


def test_terms_of_the_glossary_are_in_order():
    terms = re.findall(r"^(\S.*)\n  \S", (ROOT / "docs" / "glossary.md").read_text(), re.M)
    assert len(terms) > 25 and terms == sorted(terms, key=lambda term: term.lower().lstrip("µ"))
