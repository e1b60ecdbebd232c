"""The functions that ``attack_kills.py`` kills: what each needs, how it is run, and what it leaves."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _large_slide import write_slide
from spatialdata import read_zarr

import spade as sp
import spade.core.experts.checkpoints
import spade.core.seal.train
from spade import _demo
from spade.core.training_state import StateFolder

State = dict[str, str]


class MeanColour:
    """An encoder that takes no time, so that most kills hit the writing of pieces."""

    name, id, dim, input_px, mpp = "mean_colour", "mean-colour", 3, None, None

    def encode(self, patches, mpp):
        return patches.reshape(len(patches), -1, 3).mean(1, dtype=np.float32)


@dataclass(frozen=True)
class Case:
    """A function that writes: what it needs, how it is run, and what it leaves."""

    name: str
    prepare: Callable[[Path], None]
    start: Callable[[Path], Callable[[], Any]]
    state: Callable[[Path], State]
    #: Whether a killed run may leave something between the old state and the new, which is readable all the same.
    between: bool = False
    #: Of the kills asked for, the share that is done; slow functions get fewer.
    share: float = 1.0


def digest(*parts: Any) -> str:
    sha256 = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha256.update(np.ascontiguousarray(part).tobytes())
        elif isinstance(part, dict):  # a store returns its keys in any order
            sha256.update(json.dumps(part, default=lambda array: np.asarray(array).tolist(), sort_keys=True).encode())
        else:
            sha256.update(repr(part).encode())
    return sha256.hexdigest()[:12]


def store(path: Path) -> State:
    """Digest of every part of a store, which is read in full."""
    sdata = read_zarr(path)
    found = {"attrs": digest({key: value for key, value in sdata.attrs.items() if key != "spade_revision"})}
    for name, image in sdata.images.items():
        found[name] = digest(*(level["image"].to_numpy() for level in image.values()) if "scale0" in image else ())
    for name, shapes in sdata.shapes.items():
        found[name] = digest(list(shapes.index), shapes.geometry.to_wkb().tolist())
    for name, table in sdata.tables.items():
        x = table.X.tocsr()
        found[f"{name} X"] = digest(x.indptr, x.indices, x.data)
        found |= {f"{name} obs {key}": digest(table.obs[key].astype(str).tolist()) for key in table.obs}
        found |= {f"{name} obsm {key}": digest(np.asarray(table.obsm[key])) for key in table.obsm}
        found |= {f"{name} uns {key}": digest(table.uns[key]) for key in table.uns if key != "spade"}
        found[f"{name} records"] = digest(dict(table.uns.get("spade", {})))
    return found


def model_state(path: Path) -> State:
    if not path.exists():
        return {}
    kind = sp.models.SpadeModel if "Spade" in (path / "config.json").read_text() else sp.models.SealModel
    files = {file.name: digest(file.read_bytes()) for file in sorted(path.iterdir())}
    return {"id": kind.load(path).id, **files}


def toy(rng: int = 0, *, features: bool = False, n_spots: int = 40):
    samples = sp.datasets.toy(1, n_spots, rng=rng, n_genes=60)
    if features:
        sp.pp.patches(samples)
        sp.pp.encode_patches(samples)
    return samples


def prepare_store(
    folder: Path, *, features: bool = False, patches: bool = False, models: bool = False, n_spots: int = 40
) -> None:
    samples = toy(features=features, n_spots=n_spots)
    if patches:
        sp.pp.patches(samples)
    if models:
        panel = sp.pp.select_genes(samples, n_top_genes=20)
        spade_model(samples, panel).save(folder / "models" / "spade_1")
        spade_model(samples, panel, rng=1).save(folder / "models" / "spade_2")
        seal_model(samples, panel).save(folder / "models" / "seal_1")
        seal_model(samples, panel, rng=1).save(folder / "models" / "seal_2")
    sp.io.write(samples[0], folder / "work" / "sample.zarr")


def spade_model(samples, panel, **options):
    sizes = {"n_prototypes": 4, "n_experts": 2, "n_epochs": 4, "batch_size": 16}
    return sp.tl.train_spade(samples, use_rep="X_texture", genes=panel, **sizes | options)


SEAL_SIZES = {"dim": 8, "n_epochs": 4, "batch_size": 8}


def seal_model(samples, panel, **options):
    return sp.tl.train_seal(
        samples, on_features="X_texture", genes=panel, **{"dim": 8, "n_epochs": 4, "batch_size": 8} | options
    )


def start_write(folder: Path) -> Callable[[], Any]:
    (sample,) = toy(1)
    return lambda: sp.io.write(sample, folder / "work" / "sample.zarr")


def prepare_slide(folder: Path) -> None:
    """Write a store and a slide of 18 chunks, which is to replace it."""
    prepare_store(folder)
    pixels = np.moveaxis(toy()[0].images["image"]["scale0"]["image"].to_numpy(), 0, -1)
    write_slide(folder / "slide.tif", pixels, 2048)


def start_write_slide(folder: Path) -> Callable[[], Any]:
    slide = sp.io.read_wsi(folder / "slide.tif")
    return lambda: sp.io.write(slide, folder / "work" / "sample.zarr")


def start_embed(folder: Path) -> Callable[[], Any]:
    model = sp.models.SpadeModel.load(folder / "models" / "spade_1")
    return lambda: sp.tl.embed(folder / "work" / "sample.zarr", model)


def start_training(folder: Path, train: Callable[..., Any]) -> Callable[[], Any]:
    spade.core.experts.checkpoints.SECONDS = spade.core.seal.train.SECONDS = 0.0  # save after every step
    samples = [read_zarr(folder / "work" / "sample.zarr")]
    panel = sp.pp.select_genes(samples, n_top_genes=20)

    def run() -> None:
        model = train(samples, panel, n_epochs=12, checkpoint_dir=folder / "work" / "state")
        model.save(folder / "work" / "model")

    return run


def training_state(folder: Path) -> State:
    """The model, if the training has ended; all files of its state are read."""
    state = folder / "work" / "state"
    if state.is_dir():
        reader = StateFolder(state, None)
        for path in state.glob("*.npz"):
            reader.read(path, None, (), ())
    return model_state(folder / "work" / "model")


def start_save(folder: Path, kind: type, stem: str) -> Callable[[], Any]:
    model = kind.load(folder / "models" / f"{stem}_2")
    return lambda: model.save(folder / "work" / "model")


def prepare_save(folder: Path, stem: str) -> None:
    prepare_store(folder, features=True, models=True)
    shutil.copytree(folder / "models" / f"{stem}_1", folder / "work" / "model")


def prepare_demo(folder: Path) -> None:
    for rng in range(2):
        (sample,) = sp.datasets.toy(1, 60, rng=rng, n_genes=60)
        sample.attrs["spade"]["sample"] = f"toy {rng}"
        sp.io.write(sample, folder / "data" / f"{rng}.zarr")
    (folder / "work").mkdir()


def demo_state(folder: Path) -> State:
    """Everything of the demo that is there, read in full; the report has times, so only its ends count."""
    out = folder / "work" / "out"
    found = {f"model {key}": value for key, value in model_state(out / "model").items()}
    for path in sorted(out.glob("*.zarr")):
        found |= {f"{path.name} {key}": value for key, value in store(path).items()}
    for path in sorted(out.glob("figures/*.png")):
        import matplotlib.pyplot as plt

        found[path.name] = digest(plt.imread(path))
    if (out / "report.html").exists():
        text = (out / "report.html").read_text(encoding="utf-8")
        found["report"] = text[:15] + text[-8:]
    return found


CASES = (
    Case("write", lambda f: prepare_store(f), start_write, lambda f: store(f / "work" / "sample.zarr")),
    Case(
        "encode_patches",
        lambda f: prepare_store(f, patches=True),
        lambda f: lambda: sp.pp.encode_patches(f / "work" / "sample.zarr"),
        lambda f: store(f / "work" / "sample.zarr"),
    ),
    Case(
        "encode_pieces",
        lambda f: prepare_store(f, patches=True, n_spots=160),
        lambda f: lambda: sp.pp.encode_patches(f / "work" / "sample.zarr", MeanColour(), batch_size=1),  # 20 pieces
        lambda f: store(f / "work" / "sample.zarr"),
    ),
    Case(
        "embed",
        lambda f: prepare_store(f, features=True, models=True),
        start_embed,
        lambda f: store(f / "work" / "sample.zarr"),
    ),
    Case(
        "train_spade",
        lambda f: prepare_store(f, features=True),
        lambda f: start_training(f, spade_model),
        training_state,
        between=True,
        share=0.5,
    ),
    Case(
        "train_seal",
        lambda f: prepare_store(f, features=True),
        lambda f: start_training(f, seal_model),
        training_state,
        between=True,
        share=0.5,
    ),
    Case(
        "save_spade",
        lambda f: prepare_save(f, "spade"),
        lambda f: start_save(f, sp.models.SpadeModel, "spade"),
        lambda f: model_state(f / "work" / "model"),
    ),
    Case(
        "save_seal",
        lambda f: prepare_save(f, "seal"),
        lambda f: start_save(f, sp.models.SealModel, "seal"),
        lambda f: model_state(f / "work" / "model"),
    ),
    Case(
        "demo",
        prepare_demo,
        lambda f: lambda: _demo.run(f / "work" / "out", f / "data"),
        demo_state,
        between=True,
        share=0.1,
    ),
    Case("write_slide", prepare_slide, start_write_slide, lambda f: store(f / "work" / "sample.zarr")),
)
