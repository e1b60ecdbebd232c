"""The directory that a model is saved as: settings and arrays, the gene panel, and a card; no pickle."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Mapping
from dataclasses import fields
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from spade.core.files import digest, parse_json, read_small_text
from spade.io._atomic import publish, replacing
from spade.io._hub.download import REPOSITORY
from spade.io._state_dict import check_finite
from spade.models._checksums import check_checksums, write_checksums
from spade.models._config import STORED_IF_GIVEN, ProgramConfig, SealConfig, SpadeConfig, settings_of
from spade.models._genes import GenePanel

FORMAT = 1
CONFIG, ARRAYS, GENES, CARD = "config.json", "model.safetensors", "genes.json", "README.md"
#: Hex digits of a model's id.
ID_DIGITS = 12
#: Errors that files raise if they were edited or do not belong together.
DAMAGED = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)
Config = TypeVar("Config", SpadeConfig, SealConfig, ProgramConfig)


class History(TypedDict):
    """Losses of a training, as pandas splits a table."""

    index: list[int]
    columns: list[str]
    data: list[list[float | int | str | None]]


class StoredRouting(TypedDict):
    """What is known of a routing beside its arrays."""

    temperature: float
    groups: list[str]


class Description(TypedDict):
    """What ``config.json`` says of any model."""

    id: str
    config: dict[str, Any]
    dim: int
    facts: dict[str, Any]
    history: History


class SpadeSettings(TypedDict):
    """What shapes the output of a :class:`SpadeModel` besides arrays and genes."""

    config: dict[str, Any]
    n_experts: int
    dim: int
    routing: StoredRouting
    expression_routing: StoredRouting | None


class SpadeDescription(Description, SpadeSettings):
    """What ``config.json`` says of a :class:`SpadeModel`."""


class SealDescription(Description):
    """What ``config.json`` says of a :class:`SealModel`."""

    merged: bool


class ProgramDescription(Description):
    """What ``config.json`` says of a :class:`ProgramModel`."""

    sizes: list[int]


#: Entries that the description of each kind of model must have.
REQUIRED: dict[str, frozenset[str]] = {
    "SpadeModel": SpadeDescription.__required_keys__,
    "SealModel": SealDescription.__required_keys__,
    "ProgramModel": ProgramDescription.__required_keys__,
}


def model_id(arrays: Mapping[str, NDArray[Any]], settings: object) -> str:
    """Return the first 12 hex digits of the SHA-256 of all arrays, in the order of their names, and of the settings."""
    named = [part for name, array in sorted(arrays.items()) for part in (name, array)]
    return digest(*named, json.dumps(settings))[:ID_DIGITS]


def check_id(stored: str, model: str) -> None:
    """Raise if the id of what was read is not the one that was stored."""
    if stored != model:
        raise ValueError(f"arrays, genes and settings have id {model}, but {CONFIG} says {stored}")


def check_panel(genes: GenePanel, n_genes: int) -> None:
    """Raise if the gene panel is not as long as the weights are wide."""
    if len(genes) != n_genes:
        raise ValueError(f"{GENES} lists {len(genes)} genes, but the weights are for {n_genes}")


def write_folder(
    path: Path,
    kind: str,
    description: SpadeDescription | SealDescription | ProgramDescription,
    arrays: Mapping[str, NDArray[Any]],
    genes: GenePanel | None,
    card: str,
) -> None:
    """Write the directory of a kind of model; an earlier model is replaced in one step, anything else is refused."""
    check_finite(arrays, f"path={str(path)!r}: the model is not saved")
    target = path.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)

    def build(folder: Path) -> None:
        folder.mkdir()
        stamped = {"format": FORMAT, "model": kind, **description}
        (folder / CONFIG).write_text(json.dumps(stamped, indent=1) + "\n")
        # ascontiguousarray turns a number into an array of length 1
        whole = {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()}
        try:
            save_file(whole, folder / ARRAYS)
        except SafetensorError as error:  # it hides the number of the system's error
            full = "os error 28" in str(error) or "os error 27" in str(error)
            raise OSError(errno.ENOSPC if full else errno.EIO, str(error), str(folder / ARRAYS)) from error
        shutil.copymode(folder / CONFIG, folder / ARRAYS)  # safetensors lets nobody else read it, whatever the umask
        if genes is not None:
            genes.save(folder / GENES)
        (folder / CARD).write_text(card)
        write_checksums(folder)

    with replacing(target):
        if target.exists():
            try:
                _read_description(target, kind)
            except (FileNotFoundError, NotADirectoryError, ValueError) as error:
                raise FileExistsError(
                    f"path={str(path)!r} exists and is not a model ({error}), so it is not replaced. Choose another "
                    "path."
                ) from error
        publish(build, target)


def read_folder(path: Path, kind: str) -> tuple[Any, dict[str, NDArray[Any]], GenePanel | None]:
    """Read what :func:`write_folder` wrote: the description of this kind, the arrays and the gene panel.

    The card is for people, who may edit or remove it; any other file that was changed is an error.
    """
    description = _read_description(path, kind)
    genes = GenePanel.load(path / GENES) if (path / GENES).exists() else None
    arrays = _read_arrays(path / ARRAYS)
    check_checksums(path, (CONFIG, ARRAYS, GENES))
    check_finite(arrays, str(path / ARRAYS))
    return description, arrays, genes


def read_config(cls: type[Config], stored: Mapping[str, Any]) -> Config:
    """Return the settings of a description; unknown or missing ones are an error."""
    known = {field.name for field in fields(cls)}
    if odd := sorted((set(stored) - known) | (known - set(stored) - STORED_IF_GIVEN)):
        raise ValueError(f"the settings {odd} in {CONFIG} are unknown or missing")
    return cls(**settings_of(stored))


def history_json(history: pd.DataFrame) -> History:
    """Return losses so that they can be written as JSON."""
    split: Any = history.astype(object).where(history.notna(), None).to_dict(orient="split")
    return split


def read_history(stored: History) -> pd.DataFrame:
    """Return the losses that :func:`history_json` stored."""
    history = pd.DataFrame(stored["data"], index=stored["index"], columns=stored["columns"])
    return history.astype({name: float for name in history.columns if name.endswith("loss")})


def damaged(path: str | PathLike[str], error: Exception) -> ValueError:
    """Return the error of a directory whose files cannot be read as one model."""
    what = " ".join(str(error).split())
    return ValueError(
        f"{path} cannot be read as a model ({type(error).__name__}: {what}). Its files were changed, or are not of one "
        "model."
    )


def _read_description(folder: Path, kind: str) -> dict[str, Any]:
    if not (folder / CONFIG).is_file():
        on_hub = not folder.exists() and REPOSITORY.fullmatch(name := folder.as_posix())
        hint = f" One on the Hugging Face hub is read by sp.models.{kind}.from_pretrained({name!r})." if on_hub else ""
        raise FileNotFoundError(
            f"{folder} is not a model: it has no {CONFIG}. A model is a directory written by save().{hint}"
        )
    try:
        description: object = parse_json(read_small_text(folder / CONFIG))
    except ValueError as error:
        raise ValueError(f"{folder}/{CONFIG} is not valid JSON ({error}); was the file cut off?") from error
    facts: dict[str, Any] = description if isinstance(description, dict) else {}
    stated = (facts.get("model"), facts.get("format"))
    if stated != (kind, FORMAT):
        others = "".join(f" sp.models.{other}.load reads it." for other in REQUIRED if stated == (other, FORMAT))
        raise ValueError(
            f"{folder}/{CONFIG} describes model {stated[0]!r} in format {stated[1]!r}; this version reads {kind!r} in "
            f"format {FORMAT} here.{others}"
        )
    if missing := sorted(REQUIRED[kind] - set(facts)):
        raise ValueError(f"{folder}/{CONFIG} lacks {missing}; was it edited?")
    return facts


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the model directory is incomplete.")
    try:
        with safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise ValueError(f"{path} cannot be read ({error}); was the file cut off?") from error
