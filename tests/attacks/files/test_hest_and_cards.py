"""HEST files with columns of their own, names that lead elsewhere, and names in model cards."""

from __future__ import annotations

import json

import anndata
import numpy as np
import pandas as pd
import pytest
import tifffile
from helpers.sections import GENES, featured, train

import spade as sp
from spade.models._card import Card

NAMES = [f"a{i}" for i in range(4)]


@pytest.fixture
def folder(tmp_path):
    """A folder with one sample of four spots."""
    for name in ("wsis", "st", "metadata"):
        (tmp_path / "root" / name).mkdir(parents=True)
    slide = np.full((600, 800, 3), 240, np.uint8)
    tifffile.imwrite(tmp_path / "root/wsis/S.tif", slide, tile=(256, 256), photometric="rgb")
    write_table(tmp_path / "root")
    facts = {"organ": "Breast", "st_technology": "Visium", "inter_spot_dist": 100, "pixel_size_um_estimated": 0.5}
    (tmp_path / "root/metadata/S.json").write_text(json.dumps({**facts, "patient": "P9"}))
    return tmp_path / "root"


def write_table(folder, **obs) -> None:
    centres = np.array([[100.0, 100.0], [300.0, 100.0], [200.0, 273.0], [400.0, 273.0]])
    frame = pd.DataFrame(obs, index=NAMES)
    anndata.AnnData(np.ones((4, 3), np.float32), frame, obsm={"spatial": centres}).write_h5ad(folder / "st/S.h5ad")


OWN = {"region": ["L1", "L2", "L1", "WM"], "spot_id": ["x", "x", "y", "z"], "patient": ["p1", "p1", "p2", "p2"]}


@pytest.mark.parametrize("columns", [["region"], ["spot_id"], ["patient"], list(OWN), [*OWN, "spots_region"]])
def test_columns_of_the_file_are_kept(folder, columns, tmp_path):
    own = {**OWN, "spots_region": list("abcd")}
    write_table(folder, **{column: own[column] for column in columns})
    sdata = sp.io.read_hest(folder, "S")
    for column in columns:
        assert sdata["table"].obs[column].tolist() == own[column]
    assert sdata["table"].uns["hest"]["patient"] == "P9"
    sp.pp.patches(sdata, size_um=50, size_px=32)
    sp.pp.encode_patches(sdata)
    sp.io.write(sdata, tmp_path / "a.zarr")
    assert sdata["table"].obs["spade_valid"].all()


def test_without_them_the_table_is_as_before(folder):
    obs = sp.io.read_hest(folder, "S")["table"].obs
    assert obs["region"].tolist() == ["spots"] * 4
    assert obs["spot_id"].tolist() == NAMES
    assert obs["patient"].tolist() == ["P9"] * 4


def test_a_table_that_was_part_of_a_store_is_joined_anew(folder):
    sdata = sp.io.read_hest(folder, "S")
    sdata["table"].write_h5ad(folder / "st/S.h5ad")
    again = sp.io.read_hest(folder, "S")
    assert again["table"].uns["spatialdata_attrs"]["region_key"] == "spots_region"
    assert again["table"].obs["region"].tolist() == ["spots"] * 4


@pytest.mark.parametrize("sample_id", ["../root/S", "../../x", "sub/S", "/etc/passwd", "..", ".", "S\0", ""])
def test_names_stay_inside_the_folder(folder, sample_id):
    with pytest.raises(ValueError, match=r"^sample_id="):
        sp.io.read_hest(folder, sample_id)


def test_metadata_of_any_depth(folder):
    (folder / "metadata/S.json").write_text('{"a":' * 10**5)
    with pytest.raises(ValueError, match=r"S\.json' cannot be read as JSON \(it is nested too deeply"):
        sp.io.read_hest(folder, "S")


EVIL = "a|b\n\n# h <script>alert(1)</script> [x](javascript:0) `c` ![i](u) \ud800"


def test_names_in_cards_stay_text():
    described = Card("SPADE model", "It reads", {EVIL: EVIL}, {"samples": [EVIL, "plain_name"]}, "use()")
    page = described.html()
    assert (page.count("<tr>"), page.count("<code>c</code>")) == (2, 3)
    assert "<script" not in page
    page.encode()
    card = described.markdown()
    rows = [line for line in card.splitlines() if line.startswith("| ")]
    assert len(rows) == 4
    assert [row.replace("\\|", "").count("|") for row in rows] == [3] * 4
    assert not any(text in card for text in ("<script", "[x](", "[i](", "\n# h"))
    assert "plain_name" in card


def test_the_card_of_a_model_is_written(tmp_path):
    sdata = featured(name=EVIL.replace("\ud800", ""))
    train(sdata, GENES[:20]).save(tmp_path / "model")
    assert "<script" not in (tmp_path / "model" / "README.md").read_text()
