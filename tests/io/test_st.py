"""Classic ST sections, on the real samples and on small files that are wrong in one way each."""

from __future__ import annotations

import gzip
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.sparse import issparse
from spatialdata.models import Image2DModel, get_table_keys

import spade as sp

HER2ST = {"B4": ("BT10737_D2_HE", 284, 283), "C2": ("5714_HE_BT_C2", 187, 187), "C3": ("5714_HE_BT_D1", 182, 180)}


def check_conventions(sdata, n_spots, n_genes):
    image, spots, table = sdata["image"], sdata["spots"], sdata["table"]
    Image2DModel().validate(image)
    finest = image["scale0"]["image"]
    assert finest.dtype == np.uint8
    assert finest.dims == ("c", "y", "x")
    assert list(finest.coords["c"].to_numpy()) == ["r", "g", "b"]
    assert finest.data.chunksize == (3, min(512, finest.shape[1]), min(512, finest.shape[2]))
    assert len(image) > 1
    assert table.shape == (n_spots, n_genes)
    assert issparse(table.X)
    assert table.X.format == "csr"
    assert get_table_keys(table) == ("spots", "region", "spot_id")
    assert list(spots.index) == list(table.obs_names) == list(table.obs["spot_id"])
    assert spots.index.name is None
    np.testing.assert_array_equal(np.column_stack([spots.geometry.x, spots.geometry.y]), table.obsm["spatial"])
    assert sdata.coordinate_systems == ["global"]


def mpp(sdata):
    return sdata.attrs["spade"]["mpp"]["image"]


@pytest.mark.realdata
def test_refined_ids_on_a_cropped_image_join_integer_labels(data_dir):
    folder = data_dir / "mob" / "MOB_11"
    counts = folder / "Rep11_MOB_count_matrix-1.tsv.gz"
    sdata = sp.io.read_st(counts, folder / "11.jpg", labels=folder / "11_01.tsv", sample_id="MOB_11")
    check_conventions(sdata, 262, 16218)
    assert mpp(sdata) == pytest.approx(2.76, rel=0.01)
    assert sdata.attrs["spade"]["sample"] == "MOB_11"
    assert sdata.attrs["spade"]["pitch_um"] == {"spots": 200.0}
    table = sdata["table"]
    raw = pd.read_csv(counts, sep="\t", index_col=0, usecols=[0, 1, 2, 13, 16218])
    np.testing.assert_array_equal(table[raw.index, raw.columns].X.toarray(), raw)
    height, width = sdata["image"]["scale0"]["image"].shape[1:]
    expected = [(16.92 - 1) / 32 * width, (9.015 - 1) / 34 * height]
    np.testing.assert_allclose(table["16.92x9.015"].obsm["spatial"][0], expected)
    assert table.obs["label"].cat.categories.size == 5
    labels = pd.read_csv(folder / "11_01.tsv", sep="\t", index_col=0)
    for column, row, label in table.obs[["array_col", "array_row", "label"]].sample(40, random_state=0).to_numpy():
        one_hot = labels[f"{column}_{row}"]
        assert one_hot.sum() == 1
        assert one_hot.idxmax() == label
    assert sdata["spots"]["radius"].iloc[0] * mpp(sdata) == pytest.approx(50)


@pytest.mark.realdata
def test_spots_lie_on_the_tissue(data_dir):
    folder = data_dir / "mob" / "MOB_11"
    sdata = sp.io.read_st(None, folder / "11.jpg", labels=folder / "11_01.tsv")
    centres = sdata["table"].obsm["spatial"]
    pixels = sdata["image"]["scale0"]["image"].to_numpy()
    under = pixels[:, centres[:, 1].astype(int), centres[:, 0].astype(int)]
    assert under.mean() < pixels[:, ::50, ::50].mean() - 10  # tissue is darker than the slide


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["01", "02", "03", "04"])
def test_section_without_counts_has_a_table_of_width_zero(data_dir, name):
    folder = data_dir / "mob" / f"MOB_{name}"
    sdata = sp.io.read_st(None, folder / f"{name}.jpg", labels=folder / f"{name}_01.tsv")
    one_hot = pd.read_csv(folder / f"{name}_01.tsv", sep="\t", index_col=0)
    check_conventions(sdata, one_hot.shape[1], 0)
    table = sdata["table"]
    assert table.obs["label"].isna().sum() == (one_hot.sum() == 0).sum()
    assert list(table.obs_names) == list(one_hot.columns)
    assert mpp(sdata) == pytest.approx(2.76, rel=0.01)


@pytest.mark.realdata
@pytest.mark.parametrize("name", HER2ST)
def test_selection_gives_the_pixels(data_dir, name, caplog):
    folder, (image, selected, counted) = data_dir / "her2st" / name, HER2ST[name]
    with caplog.at_level(logging.WARNING, logger="spade"):
        sdata = sp.io.read_st(folder / f"{name}.tsv.gz", folder / f"{image}.jpg", folder / f"{name}_selection.tsv")
    dropped = [r.getMessage() for r in caplog.records if "no counts" in r.getMessage()]
    assert len(dropped) == (selected != counted)
    if dropped:
        assert f"{selected - counted} of {selected} spots" in dropped[0]
    check_conventions(sdata, counted, sdata["table"].n_vars)
    assert mpp(sdata) == pytest.approx(0.685, rel=0.01)
    selection = pd.read_csv(folder / f"{name}_selection.tsv", sep="\t")
    selection.index = selection.x.astype(str) + "x" + selection.y.astype(str)
    wanted = selection.loc[sdata["table"].obs_names, ["pixel_x", "pixel_y"]]
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], wanted)
    with gzip.open(folder / f"{name}.tsv.gz", "rt") as lines:
        header = next(lines).rstrip("\n").split("\t")[1:]
    assert list(sdata["table"].var_names) == header


@pytest.mark.realdata
def test_long_labels_stand_in_for_the_selection(data_dir):
    folder = data_dir / "her2st"
    labels = folder / "derived_labels" / "C2_transferred_labels.tsv"
    sdata = sp.io.read_st(None, folder / "C2" / "5714_HE_BT_C2.jpg", labels=labels)
    table = pd.read_csv(labels, sep="\t", keep_default_na=False)
    check_conventions(sdata, len(table), 0)
    np.testing.assert_array_equal(sdata["table"].obsm["spatial"], table[["pixel_x", "pixel_y"]])
    assert list(sdata["table"].obs["label"]) == list(table["label"])


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["CN63_E2/CN63_E2", "CN52_C2/CN52_C2_1", "CN52_C2/CN52_C2_2"])
def test_als_sections_each_as_their_own_sample(data_dir, name):
    counts = data_dir / "als" / f"{name}_stdata_aligned_counts_IDs.txt"
    image = next(counts.parent.glob("*_HE.jpg"))
    with pytest.raises(ValueError, match=r"gene names occur more than once: 'Csnk2a1'.*duplicated_genes='sum'"):
        sp.io.read_st(counts, image)
    sdata = sp.io.read_st(counts, image, duplicated_genes="sum")
    raw = pd.read_csv(counts, sep="\t", header=None, index_col=0, skiprows=1, low_memory=False)
    check_conventions(sdata, len(raw), raw.shape[1] - 3)
    assert sdata["table"].X.sum() == raw.to_numpy().sum()
    assert mpp(sdata) == pytest.approx(0.685, rel=0.01)


# --- small files, right and wrong ---


@pytest.fixture
def files(tmp_path: Path) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (680, 640, 3), dtype=np.uint8)).save(tmp_path / "he.png")
    counts = "\tActb\tGapdh\n2x3\t1\t0\n3x3\t0\t4\n2x4\t5\t2\n5x9\t0\t0\n"
    (tmp_path / "counts.tsv").write_text(counts)
    (tmp_path / "selection.tsv").write_text(
        "x\ty\tpixel_x\tpixel_y\n5\t9\t100\t180\n2\t4\t40\t80\n3\t3\t60\t60\n2\t3\t40\t60\n7\t7\t140\t140\n"
    )
    (tmp_path / "labels.tsv").write_text("\t3_3\t2_3\t2_4\ninner\t1\t0\t0\nouter\t0\t1\t0\n")
    return tmp_path


def read(files: Path, *, counts="counts.tsv", image="he.png", **kwargs):
    for key in ("spots", "labels"):
        if key in kwargs:
            kwargs[key] = files / kwargs[key]
    return sp.io.read_st(None if counts is None else files / counts, files / image, **kwargs)


def test_rows_are_joined_by_array_position_and_keep_their_order(files):
    table = read(files, spots="selection.tsv", labels="labels.tsv")["table"]
    assert list(table.obs_names) == ["2x3", "3x3", "2x4", "5x9"]
    np.testing.assert_array_equal(table.obsm["spatial"], [[40, 60], [60, 60], [40, 80], [100, 180]])
    np.testing.assert_array_equal(table.X.toarray(), [[1, 0], [0, 4], [5, 2], [0, 0]])
    assert list(table.obs["label"].astype(object).fillna("-")) == ["outer", "inner", "-", "-"]


@pytest.mark.parametrize("layout", ["columns", "rows"])
def test_alignment_matrix_in_either_orientation(files, layout):
    matrix = np.array([[20.0, 1.0, -15.0], [-1.0, 20.0, 12.0], [0, 0, 1]])
    numbers = matrix.T if layout == "columns" else matrix
    (files / "alignment.txt").write_text(" ".join(f"{v:g}" for v in numbers.ravel()))
    sdata = read(files, spots="alignment.txt")
    np.testing.assert_allclose(sdata["table"].obsm["spatial"][1], [20 * 3 + 3 - 15, -3 + 60 + 12])
    assert mpp(sdata) == pytest.approx(200 / np.hypot(20, 1), rel=1e-3)


def test_scale_is_robust_to_a_misplaced_spot(files):
    grid = [(x, y) for x in range(2, 12) for y in range(2, 12)]
    lines = [f"{x}\t{y}\t{20 * x + (300 if (x, y) == (5, 5) else 0)}\t{20 * y}" for x, y in grid]
    (files / "selection.tsv").write_text("x\ty\tpixel_x\tpixel_y\n" + "\n".join(lines) + "\n")
    assert mpp(read(files, counts=None, spots="selection.tsv")) == pytest.approx(10, rel=1e-6)


def test_unselected_spots_are_left_out_of_a_section_without_counts(files, caplog):
    (files / "selection.tsv").write_text(
        "x\ty\tpixel_x\tpixel_y\tselected\n2\t2\t40\t40\t1\n3\t2\t60\t40\t0\n2\t3\t40\t60\t1\n4\t2\t80\t40\t1\n"
    )
    table = read(files, counts=None, spots="selection.tsv")["table"]
    assert list(table.obs_names) == ["2x2", "2x3", "4x2"]
    assert "1 of 4 spots are not selected" in caplog.text


def test_tiff_image_is_lazy_and_equal(files):
    import tifffile

    pixels = np.asarray(Image.open(files / "he.png"))
    tifffile.imwrite(files / "he.tif", pixels, tile=(256, 256), photometric="rgb", compression="deflate")
    png, tif = read(files), read(files, image="he.tif")
    np.testing.assert_array_equal(tif["image"]["scale0"]["image"], png["image"]["scale0"]["image"])


def damage_gz(files):
    (files / "counts.tsv").write_bytes(gzip.compress((files / "counts.tsv").read_bytes() * 50)[:-20])


def edit(name, old, new):
    def change(files):
        text = (files / name).read_text()
        assert old in text
        (files / name).write_text(text.replace(old, new))

    return change


S, L = {"spots": "selection.tsv"}, {"labels": "labels.tsv"}


@pytest.mark.parametrize(
    ("change", "kwargs", "message"),
    [
        (damage_gz, {}, r"counts: .*counts.tsv' cannot be read .*download it again"),
        (
            edit("counts.tsv", "5\t2", "5\t-2"),
            {},
            r"1 values are negative, the first -2 at spot '2x4', gene 'Gapdh'.*Expected raw counts",
        ),
        (edit("counts.tsv", "5\t2", "5\t2.5"), {}, r"1 values are not whole, the first 2.5 at spot '2x4'"),
        (
            edit("counts.tsv", "5\t2", "5\t"),
            {},
            r"1 values are missing or infinite.*'2x4', gene 'Gapdh'.*complete file",
        ),
        (edit("counts.tsv", "5\t2", "5\ttwo"), {}, r"gene 'Gapdh' has entries that are not numbers, such as 'two'"),
        (edit("counts.tsv", "Gapdh", "Actb"), {}, r"gene names occur more than once: 'Actb'.*Rename"),
        (edit("counts.tsv", "Gapdh", "Gapdh\tX\tY"), {}, r"first line names 5 columns, the next holds 3.*Expected"),
        (edit("counts.tsv", "3x3", "2x3"), {}, r"2 spots share their array position.*\('2x3', '2x3'\).*distinct"),
        (edit("counts.tsv", "3x3", "2.1x3.2"), {}, r"2 spots share their array position.*\('2x3', '2.1x3.2'\)"),
        (edit("counts.tsv", "3x3", "ACGT"), {}, r"1 of 4 spot ids are not array coordinates \('ACGT'\).*'10x14'"),
        (edit("selection.tsv", "pixel_x", "px"), S, r"no column pixel_x; there are x, y, px, pixel_y.*alignment"),
        (edit("selection.tsv", "60\t60", "60\t"), S, r"entry 3 has coordinates that are missing"),
        (edit("selection.tsv", "2\t4", "2\t3"), S, r"2 spots share their array position"),
        (
            edit("selection.tsv", "5\t9", "6\t9"),
            S,
            r"1 of 4 spots with counts have no position in spots= \('5x9'; spots= has '6x9'",
        ),
        (edit("labels.tsv", "\t1\t0\t0", "\t1\t2\t0"), L, r"entries of a one-hot table must be 0 or 1"),
        (edit("labels.tsv", "\t0\t1\t0", "\t1\t1\t0"), L, r"spots have several labels: '3_3'"),
        (
            edit("labels.tsv", "\t3_3\t2_3\t2_4", "\ta\tb\tc"),
            L,
            r"columns '', 'a', 'b', 'c'\. Expected a table with x, y",
        ),
        (edit("labels.tsv", "3_3\t2_3\t2_4", "9_3\t9_4\t9_5"), L, r"none of the 3 spots in labels=.*another sample\?"),
        (
            lambda files: None,
            {"array": (33, 70)},
            r"grid of spots measures 20.0 pixels one way and 9.9 the other.*give spots=",
        ),
        (lambda files: None, {"array": (1, 35)}, r"array=1: expected a whole number of at least 2"),
        (lambda files: None, {"mpp": -1.0}, r"mpp=-1.0: expected a positive number of µm/px"),
        (lambda files: None, {"duplicated_genes": "drop"}, r"duplicated_genes='drop': expected one of 'error', 'sum'"),
        (lambda files: None, {"counts": None}, r"spots= .*or labels=.*neither is given"),
    ],
)
def test_wrong_input_says_what_and_what_to_do(files, change, kwargs, message):
    change(files)
    with pytest.raises(ValueError, match=message):
        read(files, **kwargs)


def test_missing_files_are_named(files):
    for kwargs in ({"counts": "no.tsv"}, {"image": "no.png"}, {"spots": "no.tsv"}, {"labels": "no.tsv"}):
        with pytest.raises(FileNotFoundError, match=rf"{next(iter(kwargs))}.*no file '.*no\."):
            read(files, **kwargs)


def test_unreadable_image_is_named(files):
    (files / "he.png").write_bytes((files / "he.png").read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"image: '.*he.png' cannot be read as an image .*download it again"):
        read(files)


def test_spots_outside_of_the_image(files):
    Image.new("RGB", (640, 170)).save(files / "low.png")
    with pytest.warns(UserWarning, match=r"counts: 1 of 4 spots lie outside the image of 640 × 170 pixels"):
        read(files, image="low.png", spots="selection.tsv")
    Image.new("RGB", (30, 30)).save(files / "small.png")
    with pytest.raises(
        ValueError, match=r"all 4 spots lie outside the image of 30 × 30 .*span x 40 to 100.*Do the coordinates"
    ):
        read(files, image="small.png", spots="selection.tsv")


def test_labels_of_spots_that_are_not_there_warn(files):
    edit("labels.tsv", "2_4", "9_9")(files)
    with pytest.warns(UserWarning, match=r"1 of 3 spots in labels= are not in the section"):
        table = read(files, labels="labels.tsv")["table"]
    assert table.obs["label"].notna().sum() == 2


def test_stated_scale_is_checked_against_the_pitch(files):
    assert mpp(read(files, mpp=10.1)) == 10.1
    with pytest.raises(ValueError, match=r"counts: at 5 µm/px .* 100.0 µm apart, but .* 200 µm.*10 would fit"):
        read(files, mpp=5.0)


def test_too_few_spots_need_mpp(files):
    (files / "counts.tsv").write_text("\tActb\n2x3\t1\n3x3\t0\n")
    with pytest.raises(ValueError, match=r"too few spots to measure their pitch.*Give mpp="):
        read(files, spots="selection.tsv")
    assert mpp(read(files, spots="selection.tsv", mpp=10.0)) == 10.0


def test_labels_are_text_and_blanks_are_unlabelled(files):
    (files / "long.csv").write_text("x,y,label\n2,3,1\n3,3,\n2,4,None\n5,9,NA\n")
    label = read(files, labels="long.csv")["table"].obs["label"]
    assert list(label.cat.categories) == ["1", "None"]
    assert list(label.isna()) == [False, True, False, True]
