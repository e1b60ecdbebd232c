"""The model card, written as README.md into a model's directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from spade._checks import plural
from spade._version import __version__
from spade.models._config import ProgramConfig, SealConfig, SpadeConfig

LICENCE = "The weights inherit the terms of the training data and of the image encoder; check both before sharing them."


def model_card(title: str, summary: str, rows: Mapping[str, object], facts: Mapping[str, Any], example: str) -> str:
    """Return the card of a model in Markdown.

    Parameters
    ----------
    title
        Kind and name of the model.
    summary
        What it does, in one sentence without a full stop.
    rows
        What it reads and how it was trained: one table row each.
    facts
        What is known of the training data: further table rows.
    example
        Line of code that uses ``model`` on ``samples``.
    """
    table = [*rows.items(), *((name.replace("_", " "), value) for name, value in facts.items())]
    return "\n".join(
        [
            f"# {_cell(title)}",
            "",
            f"{_cell(summary)}, written by spade {__version__}.",
            "",
            "| | |",
            "| --- | --- |",
            *(f"| {_cell(name)} | {_cell(value)} |" for name, value in table),
            "",
            LICENCE,
            "",
            "```python",
            "import spade as sp",
            "",
            f'model = sp.models.{title.split()[0].capitalize()}Model.load("this directory")',
            example,
            "```",
            "",
        ]
    )


def patches_read(config: SpadeConfig | ProgramConfig) -> str:
    """Describe the patches of which a model reads the features."""
    size = f"{config.patch_um:g} µm at {config.patch_px} px" if config.patch_um else "not recorded"
    return f"{size}, colour {config.colour}" if config.colour else size


def _cell(value: object) -> str:
    """Return text that stays text in a Markdown table: names of samples and files may hold anything."""
    text = " ".join(str(value).encode(errors="replace").decode().split())
    return re.sub(r"([\\|\[\]*])", r"\\\1", text.replace("<", "&lt;").replace(">", "&gt;"))


def optimiser(config: SpadeConfig | SealConfig) -> str:
    """Return the settings of the optimiser in one line."""
    return (
        f"AdamW, lr {config.lr:g}, weight decay {config.weight_decay:g}, batch {config.batch_size}, "
        f"{plural(config.n_epochs, 'epoch')}, seed {config.seed}"
    )
