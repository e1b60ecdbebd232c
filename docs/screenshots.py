"""Look at a built site with headless Chromium: pages that are wider than the screen, and pictures of every page.

``python docs/screenshots.py docs/_build/html`` opens every page at the width of a desktop and of a phone, and prints
the pages that scroll sideways; the exit status is 1 if there are any. ``--out FOLDER`` also saves each page as a PNG,
light and dark. ``--only PATTERN`` chooses pages, such as ``--only "howto/*"``.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTHS = {"desktop": 1280, "phone": 390}
MAX_HEIGHT = 6000
#: Chromium reads commands from file descriptor 3, and answers to 4.
START = "import os, sys; [os.dup2(int(sys.argv[i + 1]), 3 + i) for i in (0, 1)]; os.execv(sys.argv[3], sys.argv[3:])"
#: What sticks out of the page: its width, and the first elements that end right of the screen and cannot be scrolled.
MEASURE = """(() => {
  const root = document.documentElement, width = root.clientWidth;
  if (root.scrollWidth <= width) return [root.scrollWidth, root.scrollHeight, []];
  const wide = [...document.querySelectorAll("article *")].filter((e) => e.getBoundingClientRect().right > width + 1);
  return [root.scrollWidth, root.scrollHeight, wide.slice(0, 3).map((e) => e.tagName + "." + e.className)];
})()"""


def find_chromium() -> str | None:
    """Path of a Chromium, None if there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """A headless Chromium with one tab, spoken to by its devtools protocol through a pair of pipes."""

    def __init__(self, chromium: str, profile: str) -> None:
        commands, self._write = os.pipe()
        self._read, answers = os.pipe()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
        options.append(f"--user-data-dir={profile}")
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", START, str(commands), str(answers), chromium, *options],
            pass_fds=(commands, answers), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(commands)
        os.close(answers)
        self._buffer, self._n, self._session = b"", 0, None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Page.enable")

    def _message(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not (more := os.read(self._read, 1 << 20)):
                raise RuntimeError("Chromium ended before it answered")
            self._buffer += more
        first, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(first)

    def call(self, method: str, *, until: str | None = None, **params: Any) -> dict[str, Any]:
        """Return the answer to a command, and wait until an event has happened."""
        self._n += 1
        command = {"id": self._n, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        answer, waiting = None, until
        while answer is None or waiting:
            message = self._message()
            if message.get("id") == self._n:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                answer = message["result"]
            elif message.get("method") == waiting:
                waiting = None
        return answer

    def open(self, page: Path, width: int, scheme: str) -> None:
        """Open a page on a screen of a width, in a light or dark scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=page.resolve().as_uri(), until="Page.loadEventFired")

    def measure(self) -> tuple[int, int, list[str]]:
        """Width and height of the page, and what is wider than the screen."""
        return tuple(self.call("Runtime.evaluate", expression=MEASURE, returnByValue=True)["result"]["value"])

    def picture(self, width: int, height: int) -> bytes:
        """PNG of the page, down to a height."""
        clip = {"x": 0, "y": 0, "width": width, "height": min(height, MAX_HEIGHT), "scale": 1}
        data = self.call("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
        return base64.b64decode(data)

    def close(self) -> None:
        os.close(self._write)
        self._process.terminate()
        self._process.wait()
        os.close(self._read)


@contextmanager
def browser(chromium: str) -> Iterator[Browser]:
    """Start a browser, and end it."""
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        opened = Browser(chromium, profile)
        try:
            yield opened
        finally:
            opened.close()


def too_wide(opened: Browser, pages: dict[str, Path], out: Path | None) -> list[str]:
    """Return the pages that scroll sideways; save pictures into a folder, if one is given."""
    found = []
    for name, page in pages.items():
        for screen, width in WIDTHS.items():
            for scheme in ("light", "dark") if out else ("light",):
                opened.open(page, width, scheme)
                page_width, height, wide = opened.measure()
                if page_width > width and scheme == "light":
                    found.append(f"{name}: {page_width} px wide on a screen of {width} px: {', '.join(wide)}")
                if out:
                    file = out / f"{name.replace('/', '_').removesuffix('.html')}.{screen}.{scheme}.png"
                    file.write_bytes(opened.picture(width, height))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("--out", type=Path, help="folder for pictures")
    parser.add_argument("--only", default="**/*.html", help="pattern of the pages to look at")
    given = parser.parse_args()
    pages = {str(p.relative_to(given.site)): p for p in sorted(given.site.glob(given.only)) if "_static" not in p.parts}
    if (chromium := find_chromium()) is None or not pages:
        print(
            f"no page matches {given.only!r}" if chromium else f"none of {', '.join(NAMES)} is on PATH", file=sys.stderr
        )
        return 2
    if given.out:
        given.out.mkdir(parents=True, exist_ok=True)
    with browser(chromium) as opened:
        found = too_wide(opened, pages, given.out)
    print(*found, f"{len(pages)} pages, {len(found)} wider than the screen", sep="\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
