"""Saving: everything survives, nothing is half written, whatever moment the process is killed at."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from helpers.sections import valued as make
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel

import spade as sp
from spade._keys import REVISION
from spade.io import _atomic as _replace
from spade.io import _store
from spade.io._atomic import recover
from spade.io._store import replace_elements


def assert_same(one: SpatialData, other: SpatialData) -> None:
    assert sorted(one.elements_paths_in_memory()) == sorted(other.elements_paths_in_memory())
    assert {**one.attrs, REVISION: 0} == {**other.attrs, REVISION: 0}
    for name in one.images:
        assert list(one[name]) == list(other[name])
        for level in one[name]:
            np.testing.assert_array_equal(one[name][level]["image"], other[name][level]["image"])
    for name in one.shapes:
        assert one[name].geometry.geom_equals(other[name].geometry).all()
        assert list(one[name].index) == list(other[name].index)
    for name in one.tables:
        a, b = one[name], other[name]
        pd.testing.assert_frame_equal(a.obs, b.obs, check_dtype=False)
        assert list(a.var_names) == list(b.var_names)
        np.testing.assert_array_equal(a.X.toarray(), b.X.toarray())
        assert set(a.obsm) == set(b.obsm)
        for key in a.obsm:
            np.testing.assert_array_equal(a.obsm[key], b.obsm[key])
        assert a.uns["spade"] == b.uns["spade"]
        assert list(a.uns["domain_colors"]) == list(b.uns["domain_colors"])


def hidden(folder) -> list[str]:
    return [p.name for p in folder.iterdir() if p.name.startswith(".")]


def test_everything_survives_and_nothing_is_left_beside_it(tmp_path):
    sdata, path = make(), tmp_path / "deep" / "sample.zarr"
    sp.io.write(sdata, path)
    assert sdata.path == path
    back = read_zarr(path)
    assert_same(back, make())
    assert back.has_consolidated_metadata()
    assert hidden(path.parent) == []


def test_store_may_be_written_over_itself_and_the_object_stays_usable(tmp_path):
    path = tmp_path / "sample.zarr"
    sp.io.write(make(), path)
    lazy = read_zarr(path)
    # other chunks than on disk: arrays opened on the old store would read nonsense from the new one
    pixels = (255 - lazy["image"]["scale0"]["image"].data).rechunk((3, 90, 90))
    lazy["negative"] = Image2DModel.parse(pixels, dims=("c", "y", "x"), c_coords=["r", "g", "b"], scale_factors=[2])
    lazy["image"] = lazy["image"].map_over_datasets(lambda d: d.chunk({"c": 3, "y": 70, "x": 70}) if d else d)
    lazy["table"].obsm["new"] = np.ones((40, 2), np.float32)
    before = lazy["image"]["scale0"]["image"].to_numpy()
    sp.io.write(lazy, path)
    np.testing.assert_array_equal(lazy["image"]["scale0"]["image"], before)
    np.testing.assert_array_equal(lazy["negative"]["scale0"]["image"], 255 - before)
    assert lazy["image"]["scale0"]["image"].data.chunksize == (3, 70, 70)
    assert lazy.path == path
    assert_same(read_zarr(path), lazy)
    sp.io.write(lazy, path)
    assert_same(read_zarr(path), lazy)
    assert hidden(tmp_path) == []


def test_old_elements_do_not_linger(tmp_path):
    path = tmp_path / "sample.zarr"
    sp.io.write(make(1), path)
    smaller = make(2).subset(["spots", "table"])
    sp.io.write(smaller, path)
    assert sorted(read_zarr(path).elements_paths_on_disk()) == ["shapes/spots", "tables/table"]


def test_symbolic_link_to_a_store_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    real, link = tmp_path / "disk" / "sample.zarr", tmp_path / "link.zarr"
    sp.io.write(make(1), real)
    link.symlink_to(real)
    sp.io.write(make(2), link)
    assert link.is_symlink()
    assert_same(read_zarr(real), make(2))


def test_what_is_no_store_is_never_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_bytes(b"x")
    (tmp_path / "file").write_bytes(b"x")
    for name in ("photos", "file"):
        with pytest.raises(FileExistsError, match=rf"{name}' exists and is not a zarr store.*Choose another path"):
            sp.io.write(make(), tmp_path / name)
    assert (tmp_path / "photos" / "holiday.jpg").read_bytes() == b"x"
    sp.io.write(make(1), tmp_path / "sample.zarr")
    with pytest.raises(FileExistsError, match=r"sample.zarr' exists\. Pass overwrite=True"):
        sp.io.write(make(2), tmp_path / "sample.zarr", overwrite=False)
    with pytest.raises(ValueError, match=r"lies within the zarr store '.*sample.zarr'"):
        sp.io.write(make(2), tmp_path / "sample.zarr" / "images" / "image")
    assert_same(read_zarr(tmp_path / "sample.zarr"), make(1))


def test_key_that_cannot_be_stored_is_named_and_the_old_store_stays(tmp_path):
    path = tmp_path / "sample.zarr"
    sp.io.write(make(1), path)
    bad = make(2)
    bad["table"].obsm["my features&"] = np.zeros((40, 2))
    with pytest.raises(ValueError, match=r"(?s)my features&.*(alphanumeric|may contain)"):
        sp.io.write(bad, path)
    worse = make(2)
    worse["table"].uns["tuple"] = (1, object())
    with pytest.raises(Exception, match=r"tuple"):
        sp.io.write(worse, path)
    with pytest.raises(Exception, match=r"tuple"):
        replace_elements(worse, path, ["tables/table"])
    assert_same(read_zarr(path), make(1))
    assert hidden(tmp_path) == []


def inodes(path) -> dict[str, int]:
    return {str(p.relative_to(path)): p.stat().st_ino for p in path.rglob("*") if p.is_file()}


def test_replacing_elements_touches_only_them(tmp_path):
    path = tmp_path / "sample.zarr"
    sp.io.write(make(1), path)
    before = inodes(path)
    sdata = read_zarr(path)
    sdata["table"].obsm["X_new"] = np.arange(80, dtype=np.float32).reshape(40, 2)
    sdata["patches"] = sdata["spots"].copy()
    sdata["spots"] = sdata["spots"].iloc[:3]  # not named, hence not written
    sdata.attrs["spade"]["value"] = 7
    replace_elements(sdata, path, ["tables/table", "shapes/patches"])
    back = read_zarr(path)
    np.testing.assert_array_equal(back["table"].obsm["X_new"], sdata["table"].obsm["X_new"])
    assert back.attrs["spade"] == {"value": 7, "mpp": {"image": 0.5}}
    assert len(back["spots"]) == len(back["patches"]) == 40
    assert back.has_consolidated_metadata()
    after = inodes(path)
    chunks = [name for name in before if name.startswith("images") and not name.endswith("zarr.json")]
    assert chunks
    assert all(after[name] == before[name] for name in chunks)
    assert after["tables/table/zarr.json"] != before["tables/table/zarr.json"]
    np.testing.assert_array_equal(sdata["image"]["scale0"]["image"], make(1)["image"]["scale0"]["image"])
    assert hidden(tmp_path) == []


def test_replacing_elements_without_hard_links(tmp_path, monkeypatch):
    asked = []

    def no_links(source, target, *, follow_symlinks):
        asked.append(source)
        raise OSError(errno.EOPNOTSUPP, "no links here")

    path = tmp_path / "sample.zarr"
    sp.io.write(make(1), path)
    monkeypatch.setattr(_store, "os", SimpleNamespace(**{**vars(os), "link": no_links}))
    new = make(2)
    replace_elements(new, path, ["tables/table"])
    assert asked
    back = read_zarr(path)
    assert (back["table"].obs["value"] == 2).all()
    np.testing.assert_array_equal(back["image"]["scale0"]["image"], make(1)["image"]["scale0"]["image"])


def test_replacing_says_what_there_is(tmp_path):
    path = tmp_path / "sample.zarr"
    with pytest.raises(FileNotFoundError, match=r"not a zarr store.*spade.io.write"):
        replace_elements(make(), path, ["tables/table"])
    sp.io.write(make(), path)
    with pytest.raises(KeyError, match=r"tables/tabel.*are not in the object; there are .*tables/table"):
        replace_elements(make(), path, ["tables/tabel"])


def test_without_atomic_exchange(tmp_path, monkeypatch):
    monkeypatch.setattr(_replace, "_rename_exchange", lambda one, other: False)
    path = tmp_path / "sample.zarr"
    sp.io.write(make(1), path)
    sp.io.write(make(2), path)
    assert_same(read_zarr(path), make(2))
    assert hidden(tmp_path) == []
    # a kill between the two renames
    path.rename(tmp_path / ".sample.zarr.spade-old")
    recover(path)
    assert_same(read_zarr(path), make(2))
    assert hidden(tmp_path) == []


def test_leftovers_of_killed_writers_go_whoever_they_were(tmp_path):
    gone = (
        ".sample.zarr.spade-new-01234567",
        f".sample.zarr.spade-{os.getpid()}@another-host-00",  # of an earlier version
        ".sample.zarr.spade-old",
    )
    kept = (
        ".other.zarr.spade-new-01234567",
        ".sample.zarr.spade-new-0.zarr.spade-new-01234567",
        ".sample.zarr.spade-x",
    )
    for name in (*gone, *kept):
        (tmp_path / name).mkdir()
    (tmp_path / ".sample.zarr.spade-lock").touch()  # of a writer that was killed
    (tmp_path / ".sample.zarr.spade-old").rmdir()
    sp.io.write(make(), tmp_path / "sample.zarr")
    assert sorted(hidden(tmp_path)) == sorted(kept)


#: Imports once, then forks a writer for every line it is sent; a writer saves object after object until it is killed.
WRITERS = """
import os, sys
sys.path.insert(0, sys.argv[1])
from helpers.sections import valued as make
from spade.io._store import replace_elements, write
path, how = sys.argv[2:4]
first, second = make(1), make(2)
print("ready", flush=True)
for _ in sys.stdin:
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
        print("over", flush=True)
        continue
    print(os.getpid(), flush=True)
    for i in range(1000):
        new = (second, first)[i % 2]
        write(new, path) if how == "write" else replace_elements(new, path, ["tables/table", "shapes/spots"])
        print("written", flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the exchange is atomic on Linux only")
@pytest.mark.parametrize("how", ["write", "replace"])
def test_kill_at_any_moment_leaves_the_old_store_or_the_new(tmp_path, how):
    path = tmp_path / "sample.zarr"
    sp.io.write(make(1), path)
    one, two = make(1), make(2)
    mixed = SpatialData(images=one.images, shapes=two.shapes, tables=two.tables, attrs=two.attrs)
    options = {1: one, 2: two if how == "write" else mixed}
    rng = np.random.default_rng(0)
    seen, left = [], 0
    command = [sys.executable, "-W", "ignore", "-c", WRITERS, str(Path(__file__).parents[1]), str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as server:
        assert server.stdout.readline() == "ready\n"
        for _ in range(6):
            server.stdin.write("go\n")
            writer = int(server.stdout.readline())
            time.sleep(rng.uniform(0.02, 1.2))
            os.kill(writer, signal.SIGKILL)
            while server.stdout.readline() != "over\n":
                pass
            left += bool(hidden(tmp_path))
            back = read_zarr(path)
            seen.append(int(back["table"].obs["value"].iloc[0]))
            assert_same(back, options[seen[-1]])
        server.stdin.close()
    assert left  # at least one kill came in the middle of a write
    sp.io.write(make(2), path)  # cleans up
    assert_same(read_zarr(path), two)
    assert hidden(tmp_path) == []
