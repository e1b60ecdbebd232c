"""The benchmarks run at a small size, so that what RESULTS.md says how to measure can be measured."""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from _cohort import make

from spade.core.experts.parameters import ExpertParameters

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")

SMALL = ["--features", "16", "--genes", "40"]


def run(name, *arguments):
    module = importlib.import_module(name)
    try:
        return module.main([*map(str, arguments)])
    finally:
        sys.modules.pop(name, None)


def test_the_cohort_is_of_the_size_asked_for():
    features, expression = make(500, 12, 40)
    again = make(500, 12, 40)
    assert (features.shape, expression.shape, features.dtype, expression.dtype) == ((500, 12), (500, 40), "f4", "f4")
    assert expression.nnz == 500 * 6
    assert expression.has_canonical_format
    assert (expression.data > 0).all()
    np.testing.assert_array_equal(features, again[0])
    assert (expression != again[1]).nnz == 0


def test_full_size_made_small(capsys):
    options = ("--spots", 900, "--organs", 3, "--experts", 4, "--epochs", 2, "--device", "cpu", "--compare")
    found = run("full_size", *options, *SMALL)
    assert set(found) == {"clustering", "training", "ratio"}
    said = capsys.readouterr().out
    assert "48 prototypes" in said
    assert "training, fp32, 2 epochs on cpu" in said


@pytest.mark.slow
def test_training_made_small(capsys):
    speed = run("training", "--spots", 512, "--experts", 2, "--epochs", 2, "--repeats", 1, *SMALL)
    assert set(speed) == {"published loop", "spade fp32", "spade bf16", "bare products fp32", "bare products bf16"}
    losses = [
        float(line.split("|")[5])
        for line in capsys.readouterr().out.splitlines()
        if line.startswith(("| spade", "| pub"))
    ]
    np.testing.assert_allclose(losses, losses[0], rtol=0.1)  # the published loop trains the same thing


def test_clustering_made_small():
    sizes = ("--spots", 2_000, "--features", 16, "--clusters", 4, "--iterations", 5, "--repeats", 1)
    assert run("clustering", *sizes) == pytest.approx(1, abs=0.01)


def test_training_on_devices_made_small(capsys):
    run("training_devices", "--spots", 600, "--experts", 2, "--epochs", 2, "--repeats", 1, *SMALL)
    assert "bf16 cpu" in capsys.readouterr().out


@pytest.mark.slow
def test_embedding_and_scaling_made_small(capsys):
    assert run("embedding", "--spots", 5_000, "--features", 16, "--repeats", 1) > 0
    rows = run("scaling", "--spots", 2_100, 4_200, *SMALL)
    assert [row["spots"] for row in rows] == [2_100, 4_200]
    assert all(row["peak"] > row["data"] for row in rows)
    assert "bytes per spot" in capsys.readouterr().out


@pytest.mark.slow
def test_few_shot_made_small():
    sizes = ("--spots", 400, "--features", 32, "--draws", 2, "--gallery", 5_000, "--queries", 50, "--repeats", 1)
    *_, same = run("few_shot", *sizes)
    assert same > 0.99


def test_slides_made_small(capsys):
    ratio = run("slides", "--slides", 4, "--patches", 50, "--features", 8, "--repeats", 1)
    assert ratio > 0
    assert "times the speed of plain torch" in capsys.readouterr().out


def test_patch_feeding_made_small(capsys):
    table = run("patch_feeding", "--sections", 2, "--spots", 40, "--batch", 4, "--batches", 2, "--repeats", 1)
    assert table.loc["isel per patch", "times isel"] == 1
    assert (table["patches/s"] > 0).all()
    assert "file, 2 workers" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.realdata
def test_reading_slides_made_small(capsys, data_dir, tmp_path):
    slide = ("--data", data_dir, "--slide", tmp_path / "slide.tif", "--side", 2_560, "--patches", 20, "--repeats", 1)
    sizes = ("--zarr-patches", 30, "--resamplings", 2, "--encoder", "test_vit", "--encoded", 12)
    table = run("slides_reading", *slide, *sizes)
    assert {"slide in JPEG", "zarr slide", "writing", "encode_patches"} < set(table["part"])
    assert (table[["wall, s", "CPU, s"]].astype(float) > 0).all(axis=None)
    assert (table.loc[table["what"] == "spade: reading, 1.0 µm/px", "note"] == "20 tiles").all()
    apart = table["note"].str.extract(r"at most (\d+) grey")[0].dropna().astype(int)
    assert len(apart) == 8
    assert apart.max() <= 2
    assert "LazySlide is left out" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.realdata
def test_what_expression_adds_made_small(capsys, data_dir):
    options = ("--draws", 3, "--only", "layers, across", "--ways", "programs", "--data", data_dir)
    table = run("guidance", *options)
    assert set(table["unit"]) <= {f"MOB_11 → MOB_0{i}" for i in range(1, 5)}
    said = capsys.readouterr().out
    assert "| frozen + context + programs, weights chosen |" in said
    assert "| frozen + context, C = 0.5 |" in said


@pytest.mark.slow
@pytest.mark.realdata
def test_expression_on_real_sections_made_small(capsys, data_dir):
    options = ("--draws", 1, "--epochs", 2, "--panel", 60, "--genes", 12, "--data", data_dir)
    table, bench = run("expression", *options)
    assert set(table["section"]) == {"B4", "C2", "C3", "test 0"}
    assert set(bench["protocol"]) == {"hest", "sound"}
    assert "mean expression" in capsys.readouterr().out


def test_a_first_batch_of_texture_features(capsys):
    assert run("texture", "--first", 4) == float(capsys.readouterr().out.splitlines()[-1]) > 0


@pytest.mark.slow
def test_fine_tuning_made_small(capsys):
    sizes = ("--encoder", "test_vit", "--genes", 30, "--batch", 4, "--steps", 2, "--repeats", 1)
    overhead, factor = run("seal", *sizes)
    assert overhead > 0
    assert factor > 0
    said = capsys.readouterr().out
    assert "images/s" in said


@pytest.mark.slow
def test_fine_tuning_on_the_synthetic_cohort_made_small():
    rows = run("seal_toy", "--spots", 20, "--epochs", 1, "--seeds", 1)
    assert [way for _, way, *_ in rows] == ["frozen", "tuned", "tuned, shuffled pairs"]
    assert np.isfinite([list(figures) for *_, figures in rows]).all()


@pytest.mark.slow
@pytest.mark.realdata
def test_fine_tuning_on_real_sections_made_small(capsys, data_dir, monkeypatch):
    monkeypatch.setenv("SPADE_TEST_DATA", str(data_dir))
    run("seal_sections", "--epochs", 1, "--networks", "small ViT")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith(("| texture", "| small ViT"))]
    assert len(rows) == 2 * 8
    assert not [row for row in rows if "nan" in row]


@pytest.mark.slow
def test_gpu_and_cpu_are_compared_path_by_path(capsys, monkeypatch):
    assert run("gpu", "--device", "cpu", "--encoder", "vit_tiny_patch16_224", "--batch", 2, "--small") == []
    said = capsys.readouterr().out
    rows = [line for line in said.splitlines() if re.search(r"\| \d\.\de.\d\d \| \de.\d\d \|", line)]
    assert len(rows) == 9  # eight paths, and a training that was stopped
    assert "differs" not in said
    assert "images/s" in said
    assert "pretraining: 1,200 spots" in said
    update = ExpertParameters._update_rows
    monkeypatch.setattr(ExpertParameters, "_update_rows", lambda self, *given: update(self, *given[:2], 0.0))
    assert run("gpu", "--device", "cpu", "--encoder", "vit_tiny_patch16_224", "--minutes", 0) == ["AdamW by rows"]
    assert "left out, as 0.0 minutes have passed: pretraining" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gpu_benchmark_needs_nothing_but_arrays():
    missing = "import sys; sys.modules.update(dict.fromkeys(('spatialdata', 'anndata', 'scanpy', 'squidpy', 'pandas')))"
    subprocess.run([sys.executable, "-c", f"{missing}; sys.path.insert(0, {BENCHMARKS!r}); import gpu"], check=True)


@pytest.mark.slow
def test_the_peak_of_encoding_does_not_grow_with_the_slide(capsys):
    few, many = run("encoding_memory", "--patches", 1_000, 6_000)
    assert many < 1.1 * few  # all pixels at once would double it
    assert "861 MiB of pixels" in capsys.readouterr().out


@pytest.mark.slow
def test_bins_made_small(capsys):
    took = run("bins", "--bins", 900, "--genes", 200, "--per-bin", 20, "--no-limit")
    assert took["ratio"] > 0
    assert "900 bins of 8 µm, 200 genes" in capsys.readouterr().out
