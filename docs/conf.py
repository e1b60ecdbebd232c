"""Build the documentation: ``sphinx-build -W --keep-going -b html docs docs/_build/html``. No network is needed.

For a draft, ``-D execute_tutorials=0`` shows the tutorials as they were last executed, or without outputs.
"""

from __future__ import annotations

import base64
import inspect
import os
import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import metadata
from pathlib import Path

import nbformat
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from nbclient import NotebookClient
from pandas import NA
from sphinx.application import Sphinx
from sphinx.util.inspect import TypeAliasForwardRef

from spade import encoders, pl, tasks
from spade.encoders import _texture

DOCS = Path(__file__).parent
ROOT = DOCS.parent
#: Tutorials are executed into this folder, which git ignores; their sources are committed without outputs.
EXECUTED = DOCS / "tutorials"
#: Real sections and slides, for the tutorials whose metadata say that they need them.
DATA = Path(os.environ.get("SPADE_TEST_DATA", ROOT.parent / "shared" / "data")).resolve()
#: Pictures of the plots, which git ignores.
PLOTS = DOCS / "plots"
#: Tutorials that are executed at a time; each has about one core of work.
SIDE_BY_SIDE = 2
#: The cell with this tag draws the figure of the landing page.
LANDING = "landing"

os.environ.setdefault("SPADE_DATA_DIR", str(DATA))
sys.path.insert(0, str(DOCS))

info = metadata("spade-st")
project = "spade"
author = info["Author"] or "The spade developers"
copyright = author
version = release = info["Version"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "plots", "tutorials/hest", "**.ipynb_checkpoints"]
templates_path = ["_templates"]
nitpicky = True
# of what the package does not document itself, only links within the package must resolve
nitpick_ignore_regex = [(r"py:.*", r"(?!spade\.).*"), (r"py:.*", r"spade\.(_|core\.|io\._).*")]

# links to other projects need the network, so they are made only when asked for
if os.environ.get("SPADE_DOCS_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "matplotlib": ("https://matplotlib.org/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "spatialdata": ("https://spatialdata.scverse.org/en/stable/", None),
    }

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_type_aliases = {name: name for name in ("Floats", "Samples")}
TypeAliasForwardRef.__repr__ = lambda self: self.name  # which Sphinx prints in "Floats | None"
napoleon_google_docstring = False
napoleon_use_ivar = True
# "Returns" is prose here: what is written where, or what the value holds; its type stands in the signature
napoleon_custom_sections = ["Returns"]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"  # drawn by the browser itself, without a script from the network
nb_execution_mode = "off"  # tutorials are executed below, once
nb_merge_streams = True  # the lines of one cell are one block

html_theme = "furo"
html_title = f"spade {version}"
html_static_path = ["_static"]
html_css_files = ["spade.css"]
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def encoder_table() -> str:
    """Markdown table of the encoders that are known by name."""
    rows = ["| name | weights | features | input px | µm/px | licence of the weights | access |", "| --- " * 7 + "|"]
    for name, spec in encoders.available().items():
        hub = (spec.model or "").removeprefix("hf-hub:")
        address = f"https://huggingface.co/{hub}" if hub else spec.page
        weights = f"[{hub or address.removeprefix('https://')}]({address})" if address else "none needed"
        access = "on request" if spec.gated else "open" if hub else "from that page" if address else "built in"
        mpp = spec.mpp or ("not stated" if address else "any")
        rows.append(
            f"| `{name}` | {weights} | {spec.dim} | {spec.input_px or 'any'} | {mpp} | {spec.licence} | {access} |"
        )
    return "\n".join(rows)


def encoder_sources() -> str:
    """Markdown list of what the facts of the encoders were read in."""
    sources = dict.fromkeys(source for spec in encoders.available().values() for source in spec.source)
    return "\n".join(f"- {source}" for source in sources)


def task_table() -> str:
    """Markdown table of the slide tasks of the papers."""
    rows = ["| name | task | paper | target | metric | licence of the slides | figures | unknown |", "| --- " * 8 + "|"]
    for task in tasks.list().itertuples():
        classes = "" if task.kind == "survival" else f", {'?' if task.n_classes is NA else task.n_classes} classes"
        rows.append(
            f"| `{task.name}` | {task.title} | {task.paper} | {task.kind}{classes} | {task.metric} | {task.licence} "
            f"| {task.published} | {task.unknown} |"
        )
    return "\n".join(rows)


def source_list() -> str:
    """Markdown list of what the facts of the tasks were read in."""
    found = {}
    for name in tasks.list()["name"]:
        task = tasks.get(name)
        parts = [task.source, task.data.source, task.protocol.source, task.rule.source if task.rule else ()]
        for source in [*(s for part in parts for s in part), *(figure.source for figure in task.published)]:
            found[source.text] = f"- {source.text} ([page]({source.address})). Read: {source.read}."
    return "\n".join(found.values())


def texture_table() -> str:
    """Markdown table of the groups of texture features."""
    rows = ["| features | what they are |", "| --- | --- |"]
    rows += [f"| `{pattern}` | {text} |" for pattern, text in _texture.FEATURE_GROUPS.items()]
    return "\n".join(rows)


def gallery() -> str:
    """Pictures of all plots, in a grid, with their names."""
    import plot_examples

    items = [
        line
        for name in pl.__all__
        for line in (
            "::::{container} picture",
            f"{{func}}`spade.pl.{name}`\n",
            f"![{plot_examples.text_of(name)}](plots/{name}.png)",
            "::::",
        )
    ]
    return "\n".join([":::::{container} gallery", *items, ":::::"])


myst_substitutions = {
    "gallery": gallery(),
    "encoder_table": encoder_table(),
    "encoder_sources": encoder_sources(),
    "task_table": task_table(),
    "task_sources": source_list(),
    "texture_table": texture_table(),
    "n_texture": str(len(_texture.FEATURE_NAMES)),
    "texture_names": "```text\n" + "\n".join(_texture.FEATURE_NAMES) + "\n```",
    "version": version,
}


def run_tutorials(app: Sphinx) -> None:
    """Execute the tutorials that are newer than their last execution, and keep the figure of the landing page."""
    if not app.config.execute_tutorials:
        copy_tutorials()
        return
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # figures go into the notebook
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore:IProgress not found")
    EXECUTED.mkdir(exist_ok=True)
    code = max(file.stat().st_mtime for file in (ROOT / "src").rglob("*.py"))
    sources = sorted((ROOT / "tutorials").glob("*.ipynb"))
    old = [source for source in sources if not newer(EXECUTED / source.name, max(code, source.stat().st_mtime))]
    with ThreadPoolExecutor(SIDE_BY_SIDE) as pool:
        list(pool.map(execute, old))


def newer(file: Path, time: float) -> bool:
    """Return whether a file is there and was written after a time."""
    return file.is_file() and file.stat().st_mtime > time


def execute(source: Path) -> None:
    """Execute a tutorial; one that needs data which are not there is taken as it is."""
    notebook = nbformat.read(source, as_version=4)
    if notebook.metadata.get("needs_data") and not Path(os.environ["SPADE_DATA_DIR"]).is_dir():
        copy_tutorial(source)
        return
    if source.stem == "hest":
        from hest_folder import write_hest_folder

        write_hest_folder(EXECUTED / "hest")
    NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(EXECUTED)}}).execute()
    for cell in notebook.cells:
        if LANDING in cell.metadata.get("tags", []):
            figure = next(o.data["image/png"] for o in cell.outputs if "image/png" in o.get("data", {}))
            (EXECUTED / f"{LANDING}.png").write_bytes(base64.b64decode(figure))
    nbformat.write(notebook, EXECUTED / source.name)


def copy_tutorials() -> None:
    """Take tutorials that were never executed as they are, without outputs."""
    EXECUTED.mkdir(exist_ok=True)
    for source in (ROOT / "tutorials").glob("*.ipynb"):
        copy_tutorial(source)


def copy_tutorial(source: Path) -> None:
    """Take a tutorial as it is, as old as its source, so that the next build executes it."""
    if not (EXECUTED / source.name).is_file():
        shutil.copy2(source, EXECUTED)


def draw_plots(app: Sphinx) -> None:
    """Draw the pictures of plots that are not there or older than their code, and tell the pages of the API of them."""
    import plot_examples

    PLOTS.mkdir(exist_ok=True)
    code = [DOCS / "plot_examples.py", *(ROOT / "src" / "spade" / "pl").rglob("*.py")]
    newest = max(file.stat().st_mtime for file in code)
    for name in plot_examples.EXAMPLES:
        picture = PLOTS / f"{name}.png"
        if not picture.is_file() or picture.stat().st_mtime < newest:
            plot_examples.draw(name, picture)
    app.config.autosummary_context = {
        "plots": {
            name: {"code": plot_examples.code_of(name), "text": plot_examples.text_of(name)}
            for name in plot_examples.EXAMPLES
        }
    }


def forget_builtins(app: Sphinx) -> list[tuple[str, dict[str, object], str]]:
    """Leave modules without source out of the list of sources, which would link to pages that are not there."""
    modules = getattr(app.env, "_viewcode_modules", {})
    for name in [name for name, source in modules.items() if not source]:
        del modules[name]
    return []


def describe_figures(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Say in words what the figures of tutorials show: what the plot that drew them does, and where."""
    for image in doctree.findall(nodes.image):
        if not re.search(r"[\\/]|^$", image.get("alt", "")):
            continue
        cell, section = image, image
        while cell is not None and "cell" not in cell.get("classes", []):
            cell = cell.parent
        while section is not None and not isinstance(section, nodes.section):
            section = section.parent
        title = section[0].astext() if section is not None else docname
        drawn = re.findall(r"sp\.pl\.(\w+)\(", cell.astext()) if cell is not None else []
        does = [inspect.getdoc(getattr(pl, name)).partition("\n")[0].rstrip(".") for name in drawn if hasattr(pl, name)]
        image["alt"] = f"Figure of the section {title}" + (f": {does[-1]}" if does else "")


def visit_math(translator: object, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML."""
    block = isinstance(node, nodes.math_block)
    formula = tex2mathml(node.astext(), as_block=block)
    translator.body.append(f'<div class="math">{formula}</div>' if block else formula)
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Execute the tutorials before anything is read, and render formulas."""
    app.add_config_value("execute_tutorials", default=True, rebuild="env", types=bool)
    app.connect("builder-inited", run_tutorials, priority=100)
    app.connect("builder-inited", draw_plots, priority=101)
    app.connect("html-collect-pages", forget_builtins, priority=100)
    app.connect("doctree-resolved", describe_figures, priority=900)
    app.add_html_math_renderer("mathml", inline_renderers=(visit_math, None), block_renderers=(visit_math, None))
