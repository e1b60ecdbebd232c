"""The checks of a built site find what is wrong with one, and nothing in one that is right."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from pathlib import Path

import pytest

import spade as sp

DOCS = Path(__file__).parents[2] / "docs"
HEAD = '<head><meta name="viewport" content="width=device-width,initial-scale=1"></head>'


def script(name: str):
    """A script of the documentation as a module."""
    spec = importlib.util.spec_from_file_location(f"docs_{name}", DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def check():
    return script("check_site").problems


@pytest.fixture
def site(tmp_path):
    (tmp_path / "how").mkdir()
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "index.html").write_text(
        f'<html>{HEAD}<body><a href="how/to.html#step%20two">to</a><a href="#">top</a><a href="https://a.org/#b">b</a>'
        '<img src="a.png" alt="Two spots"><a href="how/">folder</a></body></html>'
    )
    (tmp_path / "how" / "to.html").write_text(
        '<html><body><h2 id="step two">2</h2><a href="../index.html">a</a></html>'
    )
    (tmp_path / "how" / "index.html").write_text('<html><body><a name="old"></a><a href="#old">old</a></html>')
    return tmp_path


def test_a_site_that_is_right(check, site):
    assert check(site) == ([], 3)


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ('<a href="gone.html">', "gone.html leads nowhere"),
        ('<a href="../outside.html">', "../outside.html leads nowhere"),
        ('<a href="how/to.html#step">', "how/to.html#step names an anchor that is not there"),
        ('<a href="#no">', "#no names an anchor that is not there"),
        ('<img src="b.png" alt="A missing one">', "b.png leads nowhere"),
        ('<img src="a.png">', "image a.png has the text None"),
        ('<img src="a.png" alt="">', "image a.png has the text ''"),
        ('<img src="a.png" alt="_images/a.png">', "image a.png has the text '_images/a.png'"),
        ('<img src="a.png" alt="my a.png">', "image a.png has the text 'my a.png'"),
        ('<script src="no.js"></script>', "no.js leads nowhere"),
    ],
)
def test_what_is_wrong_is_found(check, site, page, said):
    (site.parent / "outside.html").write_text("")
    (site / "bad.html").write_text(page)
    assert check(site) == ([f"bad.html: {said}"], 4)


def test_too_few_pages_are_a_problem(site, monkeypatch, capsys):
    main = script("check_site").main
    for pages, status, said in (([], 0, "3 pages, 0 problems"), (["3"], 0, "3 pages, 0"), (["4"], 1, "fewer than 4")):
        monkeypatch.setattr(sys, "argv", ["check_site.py", str(site), *(["--pages", *pages] if pages else [])])
        assert main() == status
        assert said in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["check_site.py", str(site / "how" / "none")])
    with pytest.raises(SystemExit, match="2"):
        main()


@pytest.mark.slow
def test_a_page_wider_than_a_phone_is_found(site, tmp_path_factory):
    screenshots = script("screenshots")
    if (chromium := screenshots.find_chromium()) is None:
        pytest.skip("no Chromium is on PATH")
    (site / "wide.html").write_text(
        f"<html>{HEAD}<body><article><p style='width:700px'>wide</p></article></body></html>"
    )
    out = tmp_path_factory.mktemp("pictures")
    with screenshots.browser(chromium) as opened:
        found = screenshots.too_wide(opened, {name: site / name for name in ("index.html", "wide.html")}, out)
    assert [line.partition(":")[0] for line in found] == ["wide.html"] and "390 px: P." in found[0]
    names = {
        f"{page}.{screen}.{scheme}.png"
        for page in ("index", "wide")
        for screen in ("desktop", "phone")
        for scheme in ("light", "dark")
    }
    assert {path.name for path in out.iterdir()} == names
    assert (out / "index.phone.light.png").read_bytes()[16:20] == (390).to_bytes(4, "big")


def test_every_plot_has_an_example_and_a_text():
    examples = script("plot_examples")
    assert set(examples.EXAMPLES) == set(sp.pl.__all__)
    for name, function in examples.EXAMPLES.items():
        assert f"sp.pl.{name}(" in examples.code_of(name)
        assert len(examples.text_of(name).split()) > 5
        assert set(inspect.signature(function).parameters) <= set(examples.SHARED)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["survival", "tiles"])
def test_an_example_is_drawn_without_real_samples(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SPADE_DATA_DIR", str(tmp_path))
    script("plot_examples").draw(name, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize("module", ["io", "datasets", "encoders", "pp", "tl", "pl", "models", "tasks"])
def test_every_public_name_is_on_a_page_of_the_api(module):
    page = (DOCS / "api" / f"{module}.md").read_text().split()
    assert [name for name in getattr(sp, module).__all__ if f"{module}.{name}" not in page] == []
