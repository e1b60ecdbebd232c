"""The model card, written as README.md into a model's directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from numbers import Real
from typing import Any

from spade._checks import plural
from spade._version import __version__
from spade.core.checks import brief
from spade.models._config import ProgramConfig, SealConfig, SpadeConfig

LICENCE = "The weights inherit the terms of the training data and of the image encoder; check both before sharing them."
#: Characters of a value that a notebook shows.
LONGEST = 200
#: How the hub names licences.
HUB_LICENCE = re.compile(r"[a-z0-9][a-z0-9.-]*")


@dataclass(frozen=True)
class Published:
    """What the card on the hub says beside that in the directory.

    Attributes
    ----------
    repo_id
        Repository.
    licence
        Terms of the weights, as the hub names them; None: those of data and encoder.
    figures
        What was measured, and how much it was.
    base_model
        Repository of the encoder that was tuned.
    """

    repo_id: str
    licence: str | None = None
    figures: Mapping[str, object] = field(default_factory=dict)
    base_model: str | None = None

    def __post_init__(self) -> None:
        """Check what users gave."""
        if self.licence is not None and (not isinstance(self.licence, str) or not HUB_LICENCE.fullmatch(self.licence)):
            raise ValueError(
                f"licence={brief(self.licence)}: expected a name that the hub knows, such as 'cc-by-nc-4.0'; they are "
                "listed at https://huggingface.co/docs/hub/repositories-licenses."
            )
        if not isinstance(self.figures, Mapping) or not all(
            isinstance(name, str) and isinstance(value, (str, Real)) for name, value in self.figures.items()
        ):
            raise ValueError(
                f"figures={brief(self.figures)}: expected a number or text by the name of what was measured, such as "
                "{'recall@10, held-out sections': 0.41}."
            )

    def header(self, method: str) -> list[str]:
        """Return the lines of YAML that the hub reads."""
        terms = ["license: other", "license_name: terms-of-data-and-encoder"]
        return [
            "---",
            *(terms if self.licence is None else [f"license: {self.licence}"]),
            "library_name: spade-st",
            "pipeline_tag: image-feature-extraction",
            "tags:",
            *(f"- {tag}" for tag in ("spade-st", method, "spatial-transcriptomics", "histopathology", "pathology")),
            *([f"base_model: {self.base_model}"] if self.base_model else []),
            "---",
            "",
        ]

    def measured(self) -> list[str]:
        """Return the lines that say what was measured."""
        if not self.figures:
            return ["No figure measured on held-out data was given.", ""]
        values = {name: f"{x:g}" if isinstance(x, float) else x for name, x in self.figures.items()}
        rows = (f"| {_cell(name)} | {_cell(value)} |" for name, value in values.items())
        return ["## Measured", "", "| | |", "| --- | --- |", *rows, ""]


@dataclass(frozen=True)
class Card:
    """What a model says of itself: in its directory and on the hub in Markdown, in a notebook as a table.

    Attributes
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

    title: str
    summary: str
    rows: Mapping[str, object]
    facts: Mapping[str, Any]
    example: str

    def table(self) -> list[tuple[str, object]]:
        """Return names and values of all rows."""
        return [*self.rows.items(), *((name.replace("_", " "), value) for name, value in self.facts.items())]

    def markdown(self, published: Published | None = None) -> str:
        """Return the card of a directory, or of the hub with what was published."""
        method = self.title.split()[0]
        read = '.load("this directory")' if published is None else f'.from_pretrained("{published.repo_id}")'
        return "\n".join(
            [
                *([] if published is None else published.header(method.lower())),
                f"# {_cell(self.title)}",
                "",
                f"{_cell(self.summary)}, written by spade {__version__}.",
                "",
                "| | |",
                "| --- | --- |",
                *(f"| {_cell(name)} | {_cell(value)} |" for name, value in self.table()),
                "",
                *([] if published is None else published.measured()),
                LICENCE,
                "",
                "```python",
                "import spade as sp",
                "",
                f"model = sp.models.{method.capitalize()}Model{read}",
                self.example,
                "```",
                "",
            ]
        )

    def html(self) -> str:
        """Return the table of a notebook; long values, such as the names of many samples, are cut."""
        rows = "".join(f"<tr><th>{_html(name)}</th><td>{_html(value)}</td></tr>" for name, value in self.table())
        return f"<div>{_html(self.summary)}<table><tbody>{rows}</tbody></table></div>"


def patches_read(config: SpadeConfig | ProgramConfig) -> str:
    """Describe the patches of which a model reads the features."""
    size = f"{config.patch_um:g} µm at {config.patch_px} px" if config.patch_um else "not recorded"
    return f"{size}, colour {config.colour}" if config.colour else size


def _cell(value: object) -> str:
    """Return text that stays text in a Markdown table: names of samples and files may hold anything."""
    return re.sub(r"([\\|\[\]*])", r"\\\1", _line(value).replace("<", "&lt;").replace(">", "&gt;"))


def _line(value: object) -> str:
    """Return a value in one line that can be written as UTF-8."""
    return " ".join(str(value).encode(errors="replace").decode().split())


def _html(value: object) -> str:
    """Return text that stays text in HTML; what Markdown shows as code is code here too."""
    text = _line(value)
    cut = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(cut))


def optimiser(config: SpadeConfig | SealConfig) -> str:
    """Return the settings of the optimiser in one line."""
    return (
        f"AdamW, lr {config.lr:g}, weight decay {config.weight_decay:g}, batch {config.batch_size}, "
        f"{plural(config.n_epochs, 'epoch')}, seed {config.seed}"
    )
