"""Whole slides: tissue, tiles, patches, encoding and feature files, each against a named alternative in the same run.

``SPADE_TEST_DATA=... python benchmarks/slides_reading.py --lazyslide PYTHON``, where PYTHON is that of an environment
with LazySlide; without it this comparison is left out. ``--parts`` chooses parts, and sizes are options.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import zarr
from _feature_folder import write_features
from _large_slide import section, write_slide
from PIL import Image
from spatialdata import read_zarr

import spade as sp
from spade._samples.images import image_levels
from spade.core.patches.tiles import ChunkCache, Level, iter_patches, read_patch

HERE = Path(__file__).parent
PX = 224
#: What is done with feature files.
STEPS = {
    "reading": "reading every file once",
    "embedding": "embed, joint features into files",
    "abmil": "abmil, two folds of one epoch",
}
COLUMNS = ["part", "what", "wall, s", "CPU, s", "ratio, wall", "ratio, CPU", "note"]


def measured(ways, repeats):
    """Run all ways in turn, ``repeats`` times; return the medians of wall and CPU seconds of each."""
    found = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    return {name: medians(times) for name, times in found.items()}


def medians(times):
    return tuple(statistics.median(column) for column in zip(*times, strict=True))


def row(part, what, seconds, other=None, note=""):
    """One line of the table; the ratio is the time of the other way by that of this one."""
    ratios = ("", "") if other is None else (f"{a / b:.2f}" for a, b in zip(other, seconds, strict=True))
    return [part, what, *(f"{value:.3g}" for value in seconds), *ratios, note]


def in_process(script, *arguments, python=sys.executable):
    """Run a script of this folder; return what it printed as JSON on its last line."""
    command = [python, HERE / script, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(python))
    if done.returncode:
        raise RuntimeError(f"{script} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def environment(python):
    """Return the environment variables of a process; another Python does not get the paths of this one."""
    return {k: v for k, v in os.environ.items() if python == sys.executable or k != "PYTHONPATH"}


def roads(options, slide):
    """Tissue, tiles and patches of a slide by spade and LazySlide, each in its own process."""
    libraries = {"spade": sys.executable}
    if options.lazyslide:
        libraries["lazyslide"] = options.lazyslide
    else:
        print("LazySlide is left out; give the Python of an environment that has it as --lazyslide")
    found = {name: [] for name in libraries}
    for _ in range(options.repeats):
        for name, python in libraries.items():
            found[name].append(in_process("_slide_roads.py", name, slide, options.patches, python=python))
    times = {
        name: {step: medians([run["seconds"][step] for run in runs]) for step in runs[0]["seconds"]}
        for name, runs in found.items()
    }
    for name, steps in times.items():
        peak = f"peak of the process {statistics.median(run['peak'] for run in found[name]):,.0f} MiB"
        for step, seconds in steps.items():
            n_tiles = found[name][0]["tiles"].get(step)
            other = times.get("lazyslide", {}).get(step) if name == "spade" else None
            note = peak if n_tiles is None else f"{n_tiles:,} tiles"
            yield row("slide in JPEG", f"{name}: {step}", seconds, other, note)


def from_zarr(options, slide, folder):
    """Patches at the stored resolution from all over a zarr slide, against one sweep over its chunks in order."""
    sp.io.write(sp.io.read_wsi(slide), folder / "slide.zarr")
    image = read_zarr(folder / "slide.zarr").images["he"]
    levels = image_levels(image)
    chunked = zarr.open_array(folder / "slide.zarr" / "images" / "he" / "s0", mode="r")
    height, width = levels[0].shape
    n = max(1, int(np.sqrt(options.zarr_patches)))
    y, x = (PX / 2 + np.linspace(0, side - PX, n) for side in (height, width))
    centres = np.stack(np.meshgrid(y, x, indexing="ij"), -1).reshape(-1, 2)

    def sweep():
        rows, columns = chunked.chunks[1:]
        for top in range(0, height, rows):
            for left in range(0, width, columns):
                chunked[:, top : top + rows, left : left + columns]

    def ours():
        for _ in iter_patches(levels, centres, PX, PX, 64):
            pass

    ours()
    times = measured({"sweep": sweep, "spade": ours}, options.repeats)
    yield row(
        "zarr slide", "sweep over chunks in order", times["sweep"], note=f"{height} × {width} px, {chunked.chunks}"
    )
    yield row("zarr slide", "spade", times["spade"], times["sweep"], f"{len(centres):,} patches of {PX} px")


def writing(options, slide, folder):
    """Writing the slide to a zarr store, piece by piece, against ``SpatialData.write``, which dask does."""
    sdata, store = sp.io.read_wsi(slide), folder / "written.zarr"

    def by_dask():
        shutil.rmtree(store, ignore_errors=True)
        sdata.write(store, update_sdata_path=False)

    def ours():
        shutil.rmtree(store, ignore_errors=True)
        sp.io.write(sdata, store)

    times = measured({"dask": by_dask, "spade": ours}, options.repeats)
    yield row("writing", "SpatialData.write", times["dask"])
    yield row("writing", "spade", times["spade"], times["dask"], f"{sdata['he']['scale0']['image'].shape}")


def resampling(options, pixels):
    """Patches of other sizes, from pixels in memory, against libraries on windows of whole pixels."""
    pixels = np.ascontiguousarray(pixels[2048:6144, 2048:6144])
    planes = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    edges = [np.append(np.arange(0, n, 512), n) for n in planes.shape[1:]]
    cache = ChunkCache(Level(lambda y0, y1, x0, x1: planes[:, y0:y1, x0:x1], *edges))
    rng = np.random.default_rng(0)
    for side in (160, 320, 448, 896):
        low, high = side, min(planes.shape[1:]) - side
        centres = rng.integers(low, high, (options.resamplings, 2)).astype(float)
        corners = (centres - side / 2).astype(int)

        def ours(side=side, centres=centres):
            return [read_patch(cache, centre, (side, side), PX) for centre in centres]

        def windows(side=side, corners=corners):
            return (np.ascontiguousarray(pixels[y : y + side, x : x + side]) for y, x in corners)

        def pillow(windows=windows):
            return [np.asarray(Image.fromarray(one).resize((PX, PX), Image.Resampling.BILINEAR)) for one in windows()]

        def in_torch(windows=windows):
            options = {"size": (PX, PX), "mode": "bilinear", "antialias": True}
            many = (torch.from_numpy(one).permute(2, 0, 1)[None] for one in windows())
            return [F.interpolate(one, **options)[0].permute(1, 2, 0).numpy() for one in many]

        ways = {"spade": ours, "Pillow": pillow, "torch": in_torch}
        pictures = {name: run()[0].astype(int)[8:-8, 8:-8] for name, run in ways.items()}
        times = measured(ways, options.repeats)
        per_patch = {name: tuple(value / len(centres) for value in seconds) for name, seconds in times.items()}
        yield row(f"{side} → {PX} px, a patch", "spade", per_patch["spade"])
        for name in ("Pillow", "torch"):
            apart = np.abs(pictures[name] - pictures["spade"]).max()
            note = f"{name} / spade; at most {apart} grey levels apart"
            ratio = [f"{a / b:.2f}" for a, b in zip(per_patch[name], per_patch["spade"], strict=True)]
            yield [*row(f"{side} → {PX} px, a patch", name, per_patch[name])[:4], *ratio, note]


def encoding(options, slide):
    """A network on the patches of a slide, against its bare forward on the same batches in memory."""
    encoder = sp.encoders.get(options.encoder, weights="random", device="cpu")
    sdata = sp.io.read_wsi(slide)
    sp.pp.tissue(sdata)
    sp.pp.tiles(sdata)
    tiles = sdata["tiles_table"]
    sdata.tables["tiles_table"] = tiles[: options.encoded].copy()
    levels = image_levels(sdata.images["he"])
    centres = np.asarray(sdata["tiles_table"].obsm["spatial"])[:, ::-1]
    side = tiles.uns["spade"]["patches"]["size_um"] / sdata.attrs["spade"]["mpp"]["he"]
    batches = [batch for _, batch in iter_patches(levels, centres, side, encoder.input_px, 64)]
    um = tiles.uns["spade"]["patches"]["size_um"] / encoder.input_px

    def bare():
        for batch in batches:
            encoder.encode(batch, um)

    ways = {"bare": bare, "whole": lambda: sp.pp.encode_patches(sdata, encoder, batch_size=64)}
    times = measured(ways, options.repeats)
    yield row("encode_patches", f"{options.encoder}: forward, batches in memory", times["bare"])
    yield row(
        "encode_patches", f"{options.encoder}: from the slide", times["whole"], times["bare"], f"{len(centres):,} tiles"
    )


def feature_files(options, folder):
    """Attention over slides whose features lie in files, and how much memory more slides take."""
    size = options.slide_patches * options.features * 4 / 2**20
    for n in sorted({max(4, options.slides // 2), max(4, options.slides)}):  # two of each class in two folds at least
        place = write_features(folder / f"features_{n}", n, options.slide_patches, options.features)
        runs = [in_process("_feature_folder.py", place, *STEPS) for _ in range(options.repeats)]
        for step, what in STEPS.items():
            peak = statistics.median(run[step]["peak"] for run in runs)
            note = f"{n} slides of {size:,.0f} MiB; {peak:,.0f} MiB beyond the imports, {peak / size:.1f} slides"
            yield row("feature files", what, medians([run[step]["seconds"] for run in runs]), note=note)
        for used in folder.glob(f"{place.name}*"):
            shutil.rmtree(used)


def main(arguments=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=os.environ.get("SPADE_TEST_DATA", "../shared/data"))
    parser.add_argument("--lazyslide", help="Python of an environment with LazySlide")
    parser.add_argument("--parts", default="roads,zarr,writing,resampling,encoding")
    parser.add_argument("--slide", help="a slide that an earlier run wrote, or where to write one")
    parser.add_argument("--side", type=int, default=40_000)
    parser.add_argument("--patches", type=int, default=2_048)
    parser.add_argument("--zarr-patches", type=int, default=20_000)
    parser.add_argument("--resamplings", type=int, default=100)
    parser.add_argument("--encoder", default="vit_small_patch16_224")
    parser.add_argument("--encoded", type=int, default=256)
    parser.add_argument("--slides", type=int, default=8)
    parser.add_argument("--slide-patches", type=int, default=20_000)
    parser.add_argument("--features", type=int, default=1_024)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    parts = options.parts.split(",")
    rows = []
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        slide = Path(options.slide or folder / "slide.tif")
        needs_pixels = "resampling" in parts or not slide.exists()
        pixels = section(Path(options.data)) if needs_pixels and parts != ["files"] else None
        if not slide.exists() and {"roads", "zarr", "writing", "encoding"} & set(parts):
            write_slide(slide, pixels, options.side)
        ways = {
            "roads": lambda: roads(options, slide),
            "zarr": lambda: from_zarr(options, slide, folder),
            "writing": lambda: writing(options, slide, folder),
            "resampling": lambda: resampling(options, pixels),
            "encoding": lambda: encoding(options, slide),
            "files": lambda: feature_files(options, folder),
        }
        for part in parts:
            for line in ways[part]():
                print(" | ".join(line), flush=True)
                rows.append(line)
    table = pd.DataFrame(rows, columns=COLUMNS)
    print(f"medians of {options.repeats}, {torch.get_num_threads()} threads; ratio: time of the alternative / spade")
    print(table.to_string(index=False))
    return table


if __name__ == "__main__":
    main()
