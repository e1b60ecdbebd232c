"""The Python of the how-tos: every block runs, in the order of its page; one that cannot names only what there is."""

from __future__ import annotations

import ast
import inspect
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

import spade as sp

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(path.stem for path in (DOCS / "howto").glob("*.md"))
#: In the source of a page, before a block that needs what is not here; the text above it says so to the reader.
MARK, WORDS = "% not run", "Not run by the tests"
BLOCK = re.compile(rf"(?P<mark>{MARK}\n)?```(?:\{{code-block\}} )?python\n(?P<code>.*?)```", re.S)


@dataclass(frozen=True)
class Block:
    code: str
    runs: bool
    before: str


def blocks(text: str) -> list[Block]:
    return [
        Block(found["code"], found["mark"] is None, text[: found.start()].rstrip().rpartition("\n\n")[2])
        for found in BLOCK.finditer(text)
    ]


# --- what a page finds in the folder that it runs in


def visium() -> None:
    from helpers.technologies.visium import write_visium

    write_visium(Path("outs"), Path("A1_he.tif"))


def visium_hd_xenium() -> None:
    from helpers.technologies.merscope import HE_TO_MOSAIC, write_merscope
    from helpers.technologies.stereoseq import CHIP, write_stereoseq
    from helpers.technologies.visium_hd import write_visium_hd
    from helpers.technologies.xenium import write_xenium

    write_visium_hd(Path("hd_outs"), sides=(2, 8)).rename("A1_he.tif")
    write_xenium(Path("xenium_outs"))
    write_merscope(Path("202305010900_VMSC00000/region_0"))
    np.savetxt("202305010900_VMSC00000/he_to_mosaic.txt", HE_TO_MOSAIC)
    write_stereoseq(Path("saw_outs"))
    Path("he.tif").rename(f"HE_{CHIP}_regist.tif")


def anndata() -> None:
    import anndata
    from PIL import Image

    names = []
    for name, sample in zip(("A1", "B1"), sp.datasets.toy(2, 60), strict=True):
        adata = sample["table"].copy()
        adata.obsm["spatial"] = np.array([(point.x, point.y) for point in sample["spots"].geometry])
        adata.obs["library_id"], adata.uns = name, {}
        image = next(iter(sample.images.values()))
        level = image["scale0"].to_dataset().to_dataarray() if hasattr(image, "children") else image
        Image.fromarray(np.moveaxis(np.asarray(level).squeeze(), 0, -1)).save(f"{name}_he.tif")
        names.append(adata)
    names[0].write_h5ad("A1.h5ad")
    anndata.concat(names, index_unique="-", keys=["A1", "B1"]).write_h5ad("both.h5ad")


def gated_encoders() -> None:
    import timm
    from safetensors.torch import save_file

    save_file(timm.create_model("test_vit", num_classes=0).state_dict(), "test_vit.safetensors")


def features_of_others() -> None:
    from helpers.scans.wsi import HEIGHT, WIDTH, plain_slide
    from helpers.slides import write_trident

    plain_slide(Path("slide_0.tif"))
    cut = {"patch_size": 224, "patch_size_level0": 224, "level0_magnification": 20}
    folder = Path("features_uni_v1")
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(8):
        coords = 224 * np.indices((4, 5)).reshape(2, -1).T
        x = rng.normal(i % 2, 1, (20, 8)).astype(np.float32)
        write_trident(folder / f"slide_{i}.h5", x, coords, **cut, level0_width=WIDTH, level0_height=HEIGHT)
    rows = ["sample,patient,subtype", *(f"slide_{i},p{i},{'AB'[i % 2]}" for i in range(8))]
    Path("labels.csv").write_text("\n".join(rows))


PREPARE = {
    "visium": visium,
    "visium_hd_xenium": visium_hd_xenium,
    "anndata": anndata,
    "gated_encoders": gated_encoders,
    "lazyslide_trident": features_of_others,
}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """The hub of Hugging Face is a stand-in on the loopback."""
    from helpers.hub import WRITER, running, use

    with running() as server:
        use(server, monkeypatch, tmp_path / "hub")
        monkeypatch.setenv("HF_TOKEN", WRITER)
        yield server


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if page == "share":
        request.getfixturevalue("hub")
    PREPARE.get(page, lambda: None)()
    namespace: dict[str, object] = {"__name__": "__main__"}
    source = (DOCS / "howto" / f"{page}.md").read_text()
    for i, block in enumerate(blocks(source)):
        if block.runs:
            exec(compile(block.code, f"{page}.md, block {i}", "exec"), namespace)  # noqa: S102


# --- names


def called(node: ast.AST) -> list[str]:
    """Parts of a dotted name, ``[]`` if it is another expression."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return [node.id, *parts[::-1]] if isinstance(node, ast.Name) else []


def unknown_names(code: str) -> list[str]:
    """Names below ``sp`` that the package does not have, and arguments that its functions do not take."""
    found = []
    tree = ast.parse(code)
    inner = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if id(node) in inner:  # looked at with its arguments
            continue
        name = called(node.func if isinstance(node, ast.Call) else node)
        if len(name) < 2 or name[0] != "sp":
            continue
        try:
            member = sp
            for part in name[1:]:
                member = getattr(member, part)
        except AttributeError:
            found.append(".".join(name))
            continue
        if isinstance(node, ast.Call) and len(name) > 2:
            taken = inspect.signature(member).parameters
            if not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
                found += [f"{'.'.join(name)}({key.arg}=)" for key in node.keywords if key.arg and key.arg not in taken]
    return found


@pytest.mark.parametrize("path", sorted(DOCS.rglob("*.md")), ids=lambda path: str(path.relative_to(DOCS)))
def test_every_block_of_the_documentation_names_what_there_is(path):
    if path.is_relative_to(DOCS / "_build"):
        return
    for block in blocks(path.read_text()):
        assert unknown_names(block.code) == []


def test_a_block_that_does_not_run_says_so():
    for page in PAGES:
        for block in blocks((DOCS / "howto" / f"{page}.md").read_text()):
            assert block.runs or WORDS in block.before, (page, block.code)


def test_wrong_names_are_found():
    wrong = (
        "import spade as sp\nsp.pp.patch(samples)\nsp.pp.patches(samples, size=3)\nsp.pp.patches(samples, size_um=3)"
    )
    assert unknown_names(wrong) == ["sp.pp.patch", "sp.pp.patches(size=)"]


def test_blocks_are_found_with_their_marks():
    text = "Words.\n\n```python\na = 1\n```\n\nNot run by the tests: no b.\n\n% not run\n```python\nb\n```\n"
    run, left = blocks(text)
    assert (run.code, run.runs) == ("a = 1\n", True)
    assert (left.code, left.runs, left.before) == ("b\n", False, "Not run by the tests: no b.")


def test_every_page_with_input_is_a_page():
    assert set(PREPARE) <= set(PAGES)
