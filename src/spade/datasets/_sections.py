"""Published sections: files that lie in ``SPADE_DATA_DIR`` or in the cache, else are downloaded, each with its hash."""

from __future__ import annotations

import hashlib
import logging
import os
import tomllib
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spade._checks import shorten
from spade.core.checks import check_choice, check_names_given, check_path

if TYPE_CHECKING:
    from spatialdata import SpatialData

logger = logging.getLogger("spade")
#: Names a folder that holds the files, or is to hold them.
DATA_DIR = "SPADE_DATA_DIR"
#: How often a download that broke off or came damaged is repeated, and how many seconds of silence end one.
RETRIES, TIMEOUT = 2, 30


@cache
def registry() -> dict[str, Any]:
    """Return what is known of every cohort, as ``_sections.toml`` has it."""
    return tomllib.loads(files("spade.datasets").joinpath("_sections.toml").read_text(encoding="utf-8"))


def check_sections(cohort: str, sections: object) -> list[str]:
    """Return the names of sections, in order; raise if one is unknown or given twice."""
    names = check_names_given("sections", sections)
    for name in names:
        check_choice("sections", name, registry()[cohort]["sections"])
    if len(set(names)) < len(names):
        raise ValueError(f"sections={names}: a section is named twice; name each once.")
    return names


def read_section(cohort: str, name: str, **more: Path) -> SpatialData:
    """Read a section, after a download of the files that are not there; ``more`` are further files for ``read_st``."""
    import pandas as pd

    from spade.io import read_st

    about = registry()[cohort]
    section = about["sections"][name]
    wanted = {f"{cohort}/{name}/{facts['name']}": facts for facts in section["files"].values()}
    if missing := [file for file in wanted if find(file) is None]:
        logger.info("%s, %s: %s. Cite %s.", name, about["title"], about["licence"], "; ".join(about["citation"]))
    paths = [_checked(find(file) or _download(file, facts, missing), facts) for file, facts in wanted.items()]
    given: dict[str, Any] = {"counts": None} | dict(zip(section["files"], paths, strict=True)) | more
    sdata = read_st(**given, sample_id=name)
    obs = sdata["table"].obs
    for key, value in section["facts"].items():
        obs[key] = pd.Categorical([value] * len(obs))
    return sdata


def find(file: str) -> Path | None:
    """Return where a file such as ``"mob/MOB_11/11.jpg"`` lies; None if it is not on this machine."""
    return next((path for folder in _folders() if (path := folder / file).is_file()), None)


def place(file: str) -> Path:
    """Return where a file is downloaded to: ``SPADE_DATA_DIR`` unless it is not set or read-only, else the cache."""
    return next((folder for folder in _folders() if _is_writable(folder)), _folders()[-1]) / file


def _folders() -> list[Path]:
    """Return the folders in which files are looked for: that of ``SPADE_DATA_DIR``, and the cache of the user."""
    import pooch

    given = [check_path(DATA_DIR, value).absolute()] if (value := os.environ.get(DATA_DIR)) else []
    return [*given, Path(pooch.os_cache("spade-st"))]


def _is_writable(folder: Path) -> bool:
    """Return whether a folder, or the one it will be made in, may be written to; root heeds the mode as well."""
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    return os.access(there, os.W_OK) and bool(there.stat().st_mode & 0o222)


def _download(file: str, facts: dict[str, Any], missing: list[str]) -> Path:
    """Download a file under another name and, once its hash is right, move it to its place, which is returned."""
    import pooch
    from requests.exceptions import RequestException

    target, folder = place(file), place("")
    fetcher = pooch.create(
        folder, base_url="", registry={file: facts["sha256"]}, urls={file: facts["url"]}, retry_if_failed=RETRIES
    )
    try:
        fetcher.fetch(file, downloader=pooch.HTTPDownloader(progressbar=True, chunk_size=2**16, timeout=TIMEOUT))
    except (RequestException, ValueError) as error:  # ValueError: the hash is wrong
        answer = getattr(error, "response", None)
        reason = type(error).__name__ if answer is None else f"status {answer.status_code}"
        if not isinstance(error, RequestException):
            reason = "what came is not the published file"
        raise ConnectionError(
            f"{target.name} could not be downloaded from {facts['url']} ({reason}). With a network, call this again. "
            f"Without one, put {shorten(missing)} into {folder}, or set {DATA_DIR} to a folder that has them."
        ) from error
    return target


def _checked(path: Path, facts: dict[str, Any]) -> Path:
    """Return the path of a file; raise if its content is not what was published."""
    size = path.stat().st_size
    if size == facts["size"]:
        with path.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() == facts["sha256"]:
                return path
    found = "its SHA-256 differs" if size == facts["size"] else f"it has {size:,} bytes, not {facts['size']:,}"
    raise ValueError(
        f"{path} is not the published file: {found}. Remove it and call this again, which downloads it, or correct "
        f"{DATA_DIR}."
    )
