"""The folder that a model is saved as: settings and arrays, the gene panel, and a card; no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spade.io._atomic import publish, recover
from spade.models._genes import GenePanel

FORMAT = 1
CONFIG, ARRAYS, GENES, CARD = "config.json", "model.safetensors", "genes.json", "README.md"
#: What the description of each kind of model has.
REQUIRED = {
    "SpadeModel": {"config", "dim", "expression_routing", "facts", "history", "id", "n_experts", "routing"},
    "SealModel": {"config", "dim", "facts", "history", "id", "merged"},
}


def write_folder(
    path: Path,
    kind: str,
    description: dict[str, Any],
    arrays: dict[str, NDArray[Any]],
    genes: GenePanel | None,
    card: str,
) -> None:
    """Write the folder of a kind of model; a model that is there is replaced in one step, anything else is refused."""
    target = path.resolve()
    recover(target)
    if target.exists():
        try:
            _read_description(target, kind)
        except (FileNotFoundError, NotADirectoryError, ValueError) as error:
            raise FileExistsError(
                f"path={str(path)!r} exists and is no model ({error}), so it is not replaced. Choose another path."
            ) from error

    def build(folder: Path) -> None:
        folder.mkdir(parents=True)
        stamped = {"format": FORMAT, "model": kind, **description}
        (folder / CONFIG).write_text(json.dumps(stamped, indent=1) + "\n")
        whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
        save_file(whole, folder / ARRAYS)  # what is a number stays one
        if genes is not None:
            genes.save(folder / GENES)
        (folder / CARD).write_text(card)

    publish(build, target)


def read_folder(path: Path, kind: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]], GenePanel | None]:
    """Read what :func:`write_folder` wrote: the description, the arrays and the gene panel."""
    description = _read_description(path, kind)
    genes = GenePanel.load(path / GENES) if (path / GENES).exists() else None
    return description, _read_arrays(path / ARRAYS), genes


def read_history(stored: dict[str, Any]) -> pd.DataFrame:
    """Return the losses of a description."""
    history = pd.DataFrame(stored["data"], index=stored["index"], columns=stored["columns"])
    return history.astype({name: float for name in history.columns if name.endswith("loss")})


def _read_description(folder: Path, kind: str) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(
            f"{folder} is not a model: it has no {CONFIG}. A model is a directory written by save()."
        )
    try:
        description = json.loads((folder / CONFIG).read_text())
    except ValueError as error:
        raise ValueError(f"{folder}/{CONFIG} is not valid JSON ({error}); was the file cut off?") from error
    found = (description.get("model"), description.get("format")) if isinstance(description, dict) else (None, None)
    if found != (kind, FORMAT):
        others = "".join(f" sp.models.{other}.load reads it." for other in REQUIRED if found == (other, FORMAT))
        raise ValueError(
            f"{folder}/{CONFIG} describes model {found[0]!r} in format {found[1]!r}; this version reads {kind!r} in format {FORMAT} here."
            f"{others}"
        )
    missing = sorted(REQUIRED[kind] - set(description))
    if missing:
        raise ValueError(f"{folder}/{CONFIG} lacks {missing}; was it edited?")
    return description


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the model directory is incomplete.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); was the file cut off?") from error
