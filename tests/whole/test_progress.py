"""Progress bars: hidden when asked to, by the code or by the user."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "spade"
COUNT = """
from spade._said.progress import progress_bar
assert list(progress_bar(range(3), shown={}, desc="counting")) == [0, 1, 2]
"""


@pytest.mark.parametrize(
    ("shown", "disabled", "seen"), [(True, "", True), (True, "1", False), (False, "", False), (False, "1", False)]
)
def test_a_bar_is_hidden_by_the_code_or_by_the_user(shown, disabled, seen):
    environment = {name: value for name, value in os.environ.items() if name != "TQDM_DISABLE"}
    if disabled:
        environment["TQDM_DISABLE"] = disabled
    done = subprocess.run(
        [sys.executable, "-c", COUNT.format(shown)], env=environment, check=True, capture_output=True, text=True
    )
    assert ("counting" in done.stderr) == seen


def test_no_other_code_overrides_what_the_user_asked_for():
    calls = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "tqdm"
        and any(keyword.arg == "disable" for keyword in node.keywords)
    ]
    assert [call.partition(":")[0] for call in calls] == ["_said/progress.py"]
