"""Writing into a store whose metadata are damaged: one error that names the file, and nothing is written."""

from __future__ import annotations

import os
import re

import pytest
from helpers.sections import tiny
from spatialdata import read_zarr

import spade as sp
from spade.io._store import replace_elements

SPOILT = {
    "cut off": b'{"attributes": {',
    "empty": b"",
    "no text": b"\xff\xfe{}",
    "a list": b"[]",
    "another kind": b'{"zarr_format": 3}',
    "too deep": b"[" * 200_000,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("stores") / "sample.zarr"
    sp.io.write(tiny(), path)
    return path, read_zarr(path)


@pytest.mark.parametrize("spoilt", SPOILT)
@pytest.mark.parametrize("name", ["zarr.json", "tables/zarr.json", "tables/table/obs/zarr.json"])
def test_the_damaged_file_is_named(store, name, spoilt):
    path, sdata = store
    whole = (path / name).read_bytes()
    (path / name).write_bytes(SPOILT[spoilt])
    try:
        said = re.escape(f"path: {str(path / name)!r} cannot be read") + r"|is not a UTF-8"
        with pytest.raises(ValueError, match=said):
            replace_elements(sdata, path, ["tables/table"])
        if name == "zarr.json":  # it alone tells whether the store was saved by someone else
            with pytest.raises(ValueError, match=re.escape(str(path / name))):
                sp.io.write(sdata, path)
        assert (path / name).read_bytes() == SPOILT[spoilt]
        assert not [entry for entry in os.listdir(path.parent) if ".spade-new" in entry]
    finally:
        (path / name).write_bytes(whole)


def test_a_damaged_store_can_be_replaced_on_purpose(store):
    path, sdata = store
    (path / "zarr.json").write_text("{")
    sdata.path = None
    sp.io.write(sdata, path)
    assert "table" in read_zarr(path).tables
