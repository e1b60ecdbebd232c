"""The layout of the package: one staircase, one verb a file, and the sizes of files and folders."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]
SOURCE = REPOSITORY / "src" / "spade"
#: Every part of the package, the lowest first: a file imports from its own part and from lines before its own.
#: Parts of one line do not know each other.
STAIRCASE = [
    "_version core.locks",
    "core.arrays core.checks core.compiled core.errors core.files core.rng core.roles core.schedule",
    "core.device core.recipes core.training_state",
    "core.spots core.patches core.texture core.vision core.distributed",
    "core.evaluation",
    "core.expression core.slides core.experts core.seal",
    "_keys _checks",
    "_said",
    "io",
    "encoders",
    "models",
    "_samples",
    "datasets pp",
    "tl._training tl._embedding tl._experts tl._few_shot",
    "tl._expression tl._slides tl._programs",
    "tl._switchboard",
    "tl",
    "pl._draw",
    "pl tasks",
    "_demo",
    "__main__",
]
MAX_LINES, MAX_WIDTH, MAX_FILES, MAX_POSITIONAL, MAX_BODY = 400, 120, 16, 6, 60
FOLDERS_OF_ANY_SIZE = {"src/spade/pl", "tests/pl"}
HEAVY = ("torch", "timm", "pooch", "scanpy", "squidpy", "matplotlib", "spatialdata", "anndata", "numba")
NOT_FOR_CORE = ("anndata", "spatialdata", "scanpy", "squidpy", "pandas", "matplotlib", "sklearn", "timm")


def modules(root: Path) -> dict[str, Path]:
    """Every module below ``src/spade`` by its dotted name; the package itself is left out."""
    found = {}
    for path in sorted((root / "src" / "spade").rglob("*.py")):
        parts = path.relative_to(root / "src" / "spade").with_suffix("").parts
        if name := ".".join(parts).removesuffix("__init__").removesuffix("."):
            found[name] = path
    return found


def imported(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the package that a file imports, in functions and under TYPE_CHECKING as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.removeprefix("spade.") for alias in node.names if alias.name.startswith("spade."))
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}: relative import")
            module = node.module or ""
            if module.split(".")[0] != "spade":
                continue
            for alias in node.names:
                name = f"{module}.{alias.name}".removeprefix("spade.")
                yield name if name in known else module.removeprefix("spade").removeprefix(".")


def step_of(module: str) -> tuple[int, str]:
    """Step and part of a module: the longest part of the staircase that it lies in."""
    places = [(step, part) for step, parts in enumerate(STAIRCASE) for part in parts.split()]
    fitting = [(step, part) for step, part in places if module == part or module.startswith(f"{part}.")]
    if not fitting:
        raise KeyError(f"{module} has no place on the staircase")
    return max(fitting, key=lambda place: len(place[1]))


def climbs(root: Path) -> list[str]:
    """Imports that point upwards, or sideways to another part of the same step."""
    known, found = modules(root), []
    for module, path in known.items():
        if module == "core":
            continue
        step, part = step_of(module)
        for target in imported(path, known):
            if target in ("", "core"):
                found.append(f"{module} imports the package itself")
                continue
            other, its_part = step_of(target)
            if other > step or (other == step and its_part != part):
                found.append(f"{module} imports {target}")
    return found


def circles(root: Path) -> list[str]:
    """Circles of imports, in functions and under TYPE_CHECKING as well, inside a part too."""
    known = modules(root)
    graph = {module: sorted(set(imported(path, known)) - {module}) for module, path in known.items()}
    done: set[str] = set()
    found: list[str] = []

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module in graph and module not in done:
            for other in graph[module]:
                visit(other, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def code(root: Path) -> list[Path]:
    """Python files that are held to the sizes."""
    return [path for folder in ("src", "tests") for path in sorted((root / folder).rglob("*.py"))]


def too_large(root: Path) -> list[str]:
    """Files, lines and folders that are too large, and folders that do not say what they are for."""
    found = []
    for path in code(root):
        lines = path.read_text().splitlines()
        name = path.relative_to(root)
        if len(lines) > MAX_LINES:
            found.append(f"{name}: {len(lines)} lines")
        found += [f"{name}:{i}: {len(line)} characters" for i, line in enumerate(lines, 1) if len(line) > MAX_WIDTH]
    for folder in {path.parent for path in code(root)}:
        name = str(folder.relative_to(root))
        if (n := len(list(folder.glob("*.py")))) > MAX_FILES and name not in FOLDERS_OF_ANY_SIZE:
            found.append(f"{name}: {n} files")
        if name.startswith("src/spade"):
            text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
            if not text or "\n" in text:
                found.append(f"{name}/__init__.py: expected a docstring of one line")
    return found


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef]:
    yield from (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))


def is_kernel(function: ast.FunctionDef) -> bool:
    return any("njit" in ast.unparse(decorator) for decorator in function.decorator_list)


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of a function below its docstring."""
    body = function.body[1:] if ast.get_docstring(function) is not None else function.body
    return (function.end_lineno or 0) - body[0].lineno + 1 if body else 0


def hard_to_read(root: Path) -> list[str]:
    """Functions with too many positional parameters, or longer than a screen; compiled kernels aside."""
    found = []
    for path in sorted((root / "src").rglob("*.py")):
        for function in functions(ast.parse(path.read_text())):
            if is_kernel(function):
                continue
            names = [arg.arg for arg in (*function.args.posonlyargs, *function.args.args)]
            n = len([name for name in names if name not in ("self", "cls")])
            where = f"{path.relative_to(root)}:{function.name}"
            if n > MAX_POSITIONAL:
                found.append(f"{where}: {n} positional parameters")
            if (length := body_lines(function)) > MAX_BODY:
                found.append(f"{where}: body of {length} lines")
    return found


def test_imports_go_down_the_staircase():
    assert not climbs(REPOSITORY)


def test_imports_make_no_circles():
    assert not circles(REPOSITORY)


def test_files_lines_and_folders_are_small():
    assert not too_large(REPOSITORY)


def test_functions_read_on_one_screen():
    assert not hard_to_read(REPOSITORY)


def test_the_root_holds_few_modules():
    assert sorted(path.name for path in SOURCE.glob("*.py")) == [
        "__init__.py",
        "__main__.py",
        "_checks.py",
        "_keys.py",
        "_version.py",
    ]


@pytest.mark.parametrize("module", ["pp", "tl", "pl"])
def test_one_verb_one_file_of_its_name(module):
    loaded = importlib.import_module(f"spade.{module}")
    for name in loaded.__all__:
        home = getattr(loaded, name).__module__
        assert home.startswith(f"spade.{module}._")
        assert home.rpartition(".")[2].removeprefix("_") == name


def planted(tmp_path: Path, name: str, text: str) -> Path:
    """A package of a few files with the right shape, and one more."""
    for folder in ("", "core", "core/spots", "core/experts", "core/seal", "io", "tl", "tl/_few_shot", "tl/_slides"):
        (tmp_path / "src/spade" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "src/spade" / folder / "__init__.py").write_text('"""One line."""\n')
    (tmp_path / "src/spade/core/spots/lattice.py").write_text("pitch = 1\n")
    (tmp_path / "src/spade/tl/_slides/bags.py").write_text("def read():\n    return 1\n")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return tmp_path


def test_the_rules_hold_for_a_small_package(tmp_path):
    root = planted(tmp_path, "src/spade/tl/_slides/survival.py", "from spade.core.spots.lattice import pitch\n")
    assert not [*climbs(root), *circles(root), *too_large(root), *hard_to_read(root)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/spade/core/spots/a.py", "from spade.io import x\n"),
        ("src/spade/core/spots/a.py", "def f():\n    from spade.tl._slides.bags import read\n    return read\n"),
        ("src/spade/core/spots/a.py", "import typing\nif typing.TYPE_CHECKING:\n    import spade.tl._slides.bags\n"),
        ("src/spade/core/experts/a.py", "import spade.core.seal\n"),
        ("src/spade/tl/_few_shot/a.py", "from spade.tl._slides import bags\n"),
        ("src/spade/io/a.py", "import spade\nfrom spade import tl\n"),
    ],
)
def test_a_climbing_import_is_found(tmp_path, name, text):
    assert climbs(planted(tmp_path, name, text))


@pytest.mark.parametrize("inside", ["", "def f():\n    ", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    "])
def test_a_circle_inside_a_part_is_found(tmp_path, inside):
    root = planted(tmp_path, "src/spade/core/spots/a.py", "from spade.core.spots import b\n")
    (root / "src/spade/core/spots/b.py").write_text(f"{inside}from spade.core.spots import a\n")
    assert circles(root) == ["core.spots.a -> core.spots.b -> core.spots.a"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("src/spade/io/a.py", "x = 1\n" * (MAX_LINES + 1)),
        ("tests/test_a.py", "x = 1\n" * (MAX_LINES + 1)),
        ("src/spade/io/a.py", f"x = '{'a' * MAX_WIDTH}'\n"),
        ("src/spade/io/__init__.py", "x = 1\n"),
        ("src/spade/io/__init__.py", '"""Two\n\nlines."""\n'),
    ],
)
def test_what_is_too_large_is_found(tmp_path, name, text):
    assert too_large(planted(tmp_path, name, text))


def test_a_crowded_folder_is_found(tmp_path):
    root = planted(tmp_path, "src/spade/io/a.py", "")
    for i in range(MAX_FILES):
        (root / f"src/spade/io/a{i}.py").write_text("")
    assert too_large(root) == [f"src/spade/io: {MAX_FILES + 2} files"]


@pytest.mark.parametrize(
    "text",
    ["def f(a, b, c, d, e, f, g):\n    return a\n", "def f():\n    '''Text.'''\n" + "    x = 1\n" * (MAX_BODY + 1)],
)
def test_a_function_that_is_hard_to_read_is_found(tmp_path, text):
    assert hard_to_read(planted(tmp_path, "src/spade/io/a.py", text))
    assert not hard_to_read(planted(tmp_path, "src/spade/io/a.py", f"@njit\n{text}"))


def test_core_needs_only_numpy_scipy_torch_and_numba():
    allowed = {"numpy", "scipy", "torch", "numba", "spade"} | set(sys.stdlib_module_names)
    for path in (SOURCE / "core").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= allowed, path


@pytest.mark.slow
def test_core_runs_without_the_rest_of_the_stack():
    names = sorted(name for name in modules(REPOSITORY) if name.startswith("core"))
    lines = [f"import sys\nfor name in {NOT_FOR_CORE}:\n    sys.modules[name] = None"]
    lines += [f"import spade.{name}" for name in names]
    subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True)


def test_import_spade_is_lazy():
    program = f"import sys, spade\nheavy = set({HEAVY}) & set(sys.modules)\nassert not heavy, heavy\n"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_storage_keys_are_written_in_one_place():
    pattern = re.compile(r"X_spade|spade_(?:prototype|cluster|expert|split|gene|valid|entropy|distance)\w*")
    for name, path in modules(REPOSITORY).items():
        if name.split(".")[0] in ("_keys", "_demo", "__main__"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not pattern.fullmatch(node.value), (path, node.value)


PUBLIC = ["io", "datasets", "encoders", "pp", "tl", "pl", "models", "tasks"]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_resolves_and_is_documented(module):
    loaded = importlib.import_module(f"spade.{module}")
    for name in loaded.__all__:
        member = getattr(loaded, name)
        text = inspect.getdoc(member)
        assert text, name
        if callable(member) and not isinstance(member, type):
            assert "Parameters" in text or name in ("available", "list"), name
            assert ">>> " in text, f"{name} has no example"


def test_the_package_never_asserts_or_unpickles():
    for path in modules(REPOSITORY).values():
        text = path.read_text()
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(text))), path
        assert not re.search(r"weights_only=False|allow_pickle=True|pickle\.load", text), path
