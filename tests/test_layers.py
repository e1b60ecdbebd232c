"""The three rules that hold the package up."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "spade"
#: What each part may import from; a part is below those that list it.
SHELLS = {"pp", "tl", "pl", "io", "datasets"}
BELOW = {
    "core": set(),
    "encoders": {"core"},
    "models": {"core", "encoders"},
    "io": {"core", "models", "encoders"},
    "datasets": {"core", "models", "encoders"},
    "pp": {"core", "models", "encoders"},
    "tl": {"core", "models", "encoders"},
    "pl": {"core", "models", "encoders"},
}
ENTRY = {"_demo", "__main__"}
MODULES = sorted(SOURCE.rglob("*.py"))


def part_of(path):
    relative = path.relative_to(SOURCE).parts
    return relative[0].removesuffix(".py")


def imports(path):
    """Names of the modules that a file imports, at any depth of the code, type checking included."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            if node.module == "spade":
                yield from (f"spade.{alias.name}" for alias in node.names)


def edges():
    for path in MODULES:
        for name in imports(path):
            if name.startswith("spade."):
                yield path, part_of(path), name.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_one_way_down(path):
    part = part_of(path)
    if part in ENTRY or path == SOURCE / "__init__.py":
        return
    for name in imports(path):
        if not name.startswith("spade."):
            continue
        target = name.split(".")[1]
        if part in BELOW:
            private = target.startswith("_") and part != "core" and target not in ENTRY
            assert target == part or target in BELOW[part] or private, f"{path} imports {name}"
        else:  # modules at the root serve the shells and may use what lies below them
            assert target in {"core", "models", "encoders", "__version__"} or target.startswith("_"), (
                f"{path} imports {name}"
            )
            assert target not in ENTRY | SHELLS


def test_there_are_no_cycles():
    graph: dict[str, set[str]] = {}
    for path in MODULES:
        here = ".".join(("spade", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        graph[here] = set()
        tree = ast.parse(path.read_text())
        for node in tree.body:  # imports within functions cannot make a cycle while loading
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("spade"):
                graph[here].add(node.module)
                if node.module == "spade":
                    graph[here].update(f"spade.{alias.name}" for alias in node.names)
    visiting: list[str] = []
    done: set[str] = set()

    def visit(name):
        if name in done or name not in graph or name == "spade":
            return
        assert name not in visiting, " -> ".join([*visiting, name])
        visiting.append(name)
        for other in sorted(graph[name]):
            visit(other)
        done.add(visiting.pop())

    for name in sorted(graph):
        visit(name)


def test_core_needs_only_numpy_scipy_torch_and_numba():
    allowed = {"numpy", "scipy", "torch", "numba", "spade"} | set(sys.stdlib_module_names)
    for path in (SOURCE / "core").rglob("*.py"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path
        assert all(
            name == "spade.core" or name.startswith("spade.core.") for name in imports(path) if name.startswith("spade")
        )


def test_core_runs_without_the_rest_of_the_stack():
    code = (
        "import sys\n"
        "for name in ('anndata', 'spatialdata', 'scanpy', 'squidpy', 'pandas', 'matplotlib', 'sklearn', 'timm'):\n"
        "    sys.modules[name] = None\n"
        "import spade.core.experts.train, spade.core.experts.clustering, spade.core.patches.tiles, spade.core.evaluation.retrieval, spade.core.expression.normalise, spade.core.patches.sources, spade.core.seal.augment\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_import_spade_is_lazy():
    code = (
        "import sys, spade\n"
        "heavy = {'torch', 'timm', 'scanpy', 'squidpy', 'matplotlib', 'spatialdata', 'anndata', 'numba'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_shells_do_not_import_each_other():
    assert not [(path, target) for path, part, target in edges() if part in SHELLS and target in SHELLS - {part}]


@pytest.mark.parametrize("module", ["pp", "tl", "pl"])
def test_one_verb_one_file(module):
    public = importlib.import_module(f"spade.{module}").__all__
    homes = [getattr(importlib.import_module(f"spade.{module}"), name).__module__ for name in public]
    assert len(set(homes)) == len(homes), "two public functions share a file"
    assert all(home.startswith(f"spade.{module}._") for home in homes)


def test_storage_keys_are_written_in_one_place():
    pattern = re.compile(
        r"""["'](X_spade|spade_(?:prototype|cluster|expert|split|gene|valid|entropy|distance)\w*)["']"""
    )
    for path in MODULES:
        if path.name == "_keys.py" or part_of(path) in ENTRY:
            continue
        strings = [
            ast.get_source_segment(path.read_text(), node) or ""
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\n" not in node.value
        ]
        assert not [text for text in strings if pattern.fullmatch(text)], path


@pytest.mark.parametrize("module", ["io", "datasets", "encoders", "pp", "tl", "pl", "models"])
def test_every_public_name_resolves_and_is_documented(module):
    loaded = importlib.import_module(f"spade.{module}")
    for name in loaded.__all__:
        text = getattr(loaded, name).__doc__
        assert text, name
        if callable(getattr(loaded, name)) and not isinstance(getattr(loaded, name), type):
            assert "Parameters" in text or name == "available", name
            assert ">>> " in text, f"{name} has no example"


def test_no_file_is_long():
    assert not [str(path) for path in MODULES if len(path.read_text().splitlines()) > 400]


def test_the_package_never_asserts_or_unpickles():
    for path in MODULES:
        tree = ast.parse(path.read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), path
        assert not re.search(r"weights_only=False|allow_pickle=True|pickle\.load", path.read_text()), path
