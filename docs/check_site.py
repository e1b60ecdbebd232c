"""Check a built site: every link and anchor within it resolves, and every image has a text in words.

``python docs/check_site.py docs/_build/html`` prints what is wrong and the number of pages; the exit status is 1 if
anything is, or if there are fewer pages than ``--pages``. Nothing is asked of the network.
"""

from __future__ import annotations

import argparse
import re
import sys
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Attributes that hold an address, by tag.
ADDRESSES = {"a": "href", "link": "href", "img": "src", "script": "src", "source": "src", "iframe": "src"}
FILE_NAME = re.compile(r"[\\/]|\.(png|jpe?g|svg|gif|webp)$", re.I)


@dataclass
class Page(HTMLParser):
    """Anchors, links and images of one page."""

    anchors: set[str] = field(default_factory=lambda: {"", "top"})
    links: list[str] = field(default_factory=list)
    images: list[tuple[str, str | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.anchors |= {value for value in (given.get("id"), given.get("name") if tag == "a" else None) if value}
        if address := given.get(ADDRESSES.get(tag, "")):
            self.links.append(address)
        if tag == "img" and given.get("role") != "presentation":
            self.images.append((given.get("src") or "", given.get("alt")))


def read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def in_words(alt: str | None) -> bool:
    """Whether a text says in words what an image shows: two of them at least, and no file name."""
    return alt is not None and len(alt.split()) > 1 and not FILE_NAME.search(alt)


def problems(site: Path) -> tuple[list[str], int]:
    """Return what is wrong with a site, and its number of pages."""
    site = site.resolve()
    pages = {path: read(path) for path in sorted(site.rglob("*.html")) if "_static" not in path.parts}
    found = []
    for path, page in pages.items():
        name = path.relative_to(site)
        found += [f"{name}: image {src} has the text {alt!r}" for src, alt in page.images if not in_words(alt)]
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or not target.is_relative_to(site):
                found.append(f"{name}: {link} leads nowhere")
            elif target in pages and unquote(parts.fragment) not in pages[target].anchors:
                found.append(f"{name}: {link} names an anchor that is not there")
    return found, len(pages)


def main() -> int:
    parser = argparse.ArgumentParser(description="Check a built site.")
    parser.add_argument("site", type=Path, help="folder of the built site")
    parser.add_argument("--pages", type=int, default=1, help="fewest pages that it must have")
    options = parser.parse_args()
    if not (options.site / "index.html").is_file():
        parser.error(f"{options.site} has no index.html")
    found, n_pages = problems(options.site)
    if n_pages < options.pages:
        found.append(f"the site has {n_pages} pages, fewer than {options.pages}: a part of it was not built")
    print(*found, f"{n_pages} pages, {len(found)} problems", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
