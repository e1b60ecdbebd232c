"""The report page: figures and numbers, with a sentence about each."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import pandas as pd

from spade.core.files import write_atomically

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; margin-bottom: .2rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
img { max-width: 100%; border: 1px solid #d9dee5; border-radius: 6px; }
table { border-collapse: collapse; margin: .6rem 0; font-size: .92rem; }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #d9dee5; text-align: right; }
th:first-child, td:first-child { text-align: left; } p.lead { color: #56606e; margin-top: 0; }
p { overflow-wrap: anywhere; } .wide { overflow-x: auto; }
nav ol { columns: 15rem; column-gap: 2rem; padding-left: 1.4rem; }
@media (max-width: 600px) { body { margin: 1rem auto; } h1 { font-size: 1.35rem; } th, td { padding: .2rem .4rem; } }
"""


@dataclass
class Report:
    """Parts of the page, in order."""

    title: str
    lead: str
    parts: list[str] = field(default_factory=list)
    headings: list[str] = field(default_factory=list)

    def text(self, heading: str, sentence: str) -> None:
        """Add a heading and a sentence."""
        self.headings.append(heading)
        anchor = f"part-{len(self.headings)}"
        self.parts.append(f'<h2 id="{anchor}">{escape(heading)}</h2>\n<p>{escape(sentence)}</p>')

    def table(self, frame: pd.DataFrame) -> None:
        """Add a table."""
        table = frame.to_html(index=False, border=0, float_format=lambda value: f"{value:.3g}")
        self.parts.append(f'<div class="wide">{table}</div>')

    def figure(self, heading: str, sentence: str, path: Path) -> None:
        """Add a figure with its sentence; the image is embedded in the page."""
        self.text(heading, sentence)
        data = base64.b64encode(path.read_bytes()).decode()
        self.parts.append(f'<img alt="{escape(f"{heading}. {sentence}")}" src="data:image/png;base64,{data}">')

    def write(self, path: Path) -> None:
        """Write the page in one step, with a table of contents."""
        contents = "\n".join(
            f'<li><a href="#part-{i}">{escape(one)}</a></li>' for i, one in enumerate(self.headings, 1)
        )
        body = f'<nav aria-label="Contents"><ol>\n{contents}\n</ol></nav>\n' + "\n".join(self.parts)
        page = (
            f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{escape(self.title)}</title>'
            f"<style>{STYLE}</style></head>\n<body><h1>{escape(self.title)}</h1>\n"
            f'<p class="lead">{escape(self.lead)}</p>\n{body}\n</body></html>\n'
        )

        def write(part: Path) -> None:
            part.write_bytes(page.encode())

        write_atomically(path, write)
