"""``python -m spade demo``: what it finds in a folder, and what it leaves in another."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from helpers.sections import tiny
from spatialdata import read_zarr

import spade as sp
from spade.__main__ import main
from spade._demo import _file_names
from spade._demo._find import find_samples
from spade._demo._report import Report


def names(folder, **options):
    return [sample.attrs["spade"]["sample"] for sample in find_samples(folder, **options)]


# --- finding


def test_stores_are_found_wherever_the_folder_lies(tmp_path):
    """Only what is below the folder counts: its parents may be called anything."""
    folder = tmp_path / "spatial" / "wsis" / "old.zarr" / "cohort"
    sp.io.write(tiny(name=""), folder / "a" / "data.zarr")
    sp.io.write(tiny(name=""), folder / "b" / "data.zarr")
    sp.io.write(tiny(name="named"), folder / "c.zarr")
    assert names(folder) == ["a/data", "b/data", "named"]
    assert names(folder / "c.zarr") == ["named"]
    assert "spade" not in read_zarr(folder / "a" / "data.zarr").attrs


def test_what_was_written_is_not_found_again(tmp_path):
    sp.io.write(tiny(name="mine"), tmp_path / "mine.zarr")
    sp.io.write(tiny(name="mine"), tmp_path / "out" / "mine.zarr")
    assert names(tmp_path, leave_out=tmp_path / "out") == ["mine"]


def write_classic(folder, image_from):
    """A classic ST section: counts per spot and an image that is cropped to the spots' frame."""
    folder.mkdir(parents=True)
    shutil.copy(image_from, folder / "he.png")
    rng = np.random.default_rng(0)
    genes = [f"G{i}" for i in range(5)]
    rows = [f"{x}x{y}\t" + "\t".join(map(str, rng.integers(0, 9, 5))) for x in range(1, 5) for y in range(1, 5)]
    (folder / "counts.tsv").write_text("\t".join(["", *genes]) + "\n" + "\n".join(rows) + "\n")


@pytest.fixture
def png(tmp_path):
    from PIL import Image

    path = tmp_path / "he.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (340, 320, 3), dtype=np.uint8)).save(path)
    return path


def test_classic_sections_are_found_and_pictures_of_visium_are_not(tmp_path, png):
    write_classic(tmp_path / "data" / "one", png)
    write_classic(tmp_path / "data" / "deep" / "two", png)
    write_classic(tmp_path / "data" / "spatial", png)
    assert names(tmp_path / "data") == ["two", "one"]


def test_a_folder_without_samples_says_what_is_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no known samples: looked for \.zarr .*HEST-1k.*classic"):
        find_samples(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        find_samples(tmp_path / "nowhere")


def test_files_stay_in_their_folder_and_apart():
    assert _file_names(["a", "a/data", "../../evil", "..", "a_data"]) == ["a", "a_data", "evil", "sample", "a_data_2"]


# --- running


def test_errors_are_one_line_and_an_exit_code(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: data=")
    assert main(["demo", "--out", str(tmp_path / "out"), "--data", str(tmp_path)]) == 1


def test_the_report_fits_a_phone_and_lists_its_parts(tmp_path, png):
    report = Report("One & two", "Made in a test.")
    report.text("What was <found>?", "Nothing.")
    report.table(pd.DataFrame({"recall": [0.12345]}))
    report.figure("Patches", "Squares on tissue.", png)
    report.write(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert '<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    links = re.findall(r'<li><a href="#(.*?)">(.*?)</a>', page)
    assert links == re.findall(r'<h2 id="(.*?)">(.*?)</h2>', page) == [
        ("part-1", "What was &lt;found&gt;?"), ("part-2", "Patches"),
    ]  # fmt: skip
    assert 'alt="Patches. Squares on tissue."' in page and '<div class="wide"><table' in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["he.png", "report.html"]


@pytest.mark.slow
def test_the_demo_leaves_report_figures_model_and_stores(tmp_path):
    """On two small toy sections given as stores; the whole of it as a user runs it."""
    for sample in sp.datasets.toy(2, 150, n_genes=200):
        sp.io.write(sample, tmp_path / "data" / f"{sample.attrs['spade']['sample']}.zarr")
    command = [sys.executable, "-m", "spade", "demo", "--data", "data", "--out", "out", "--seed", "3"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("report: out/report.html")
    assert "[6/6] figures and files" in done.stdout
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "figures",
        "model",
        "report.html",
        "toy_0.zarr",
        "toy_1.zarr",
    ]
    figures = sorted(path.stem for path in (out / "figures").glob("*.png"))
    assert figures == ["embedding", "expert_clusters", "expert_gallery", "patches", "training"]
    model = sp.models.SpadeModel.load(out / "model")
    assert model.config.seed == 3
    embedded = read_zarr(out / "toy_0.zarr")["table"]
    assert embedded.uns["spade"]["X_spade"]["model_id"] == model.id
    assert embedded.obsm["X_spade"].shape == (150, model.dim)
    page = (out / "report.html").read_text()
    assert page.count("<img ") == len(figures)
    for sentence in ("Do image and expression find each other?", "adjusted Rand index", "seed 3", "toy_0.zarr"):
        assert sentence in page
    assert list(read_zarr(tmp_path / "data" / "toy_0.zarr")["table"].obsm) == ["spatial"]  # the input is left as it was
