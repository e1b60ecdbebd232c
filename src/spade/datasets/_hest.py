"""Download of samples of HEST-1k."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

from tqdm.auto import tqdm

from spade._checks import shorten
from spade.core.checks import brief, check_path
from spade.io._files.damaged import damaged, reading
from spade.io._hub.errors import hub_errors

logger = logging.getLogger("spade")
#: The dataset on the Hugging Face hub.
REPOSITORY = "MahmoodLab/hest"
#: What is downloaded of a sample, and of the whole dataset.
OF_SAMPLE = ("wsis/{id}.tif", "st/{id}.h5ad", "metadata/{id}.json", "tissue_seg/{id}[_.]*", "cellvit_seg/{id}[_.]*")
OF_ALL = ("HEST_v*.csv",)
#: What patches are instead of the slide.
SLIDE, PATCHES = "wsis/{id}.tif", "patches/{id}.h5"
#: Names of files that archives of outlines hold.
OUTLINES = re.compile(r"\w[\w.-]*\.(geojson|parquet)")
STEPS = (
    "HEST-1k asks for consent: (1) log in at https://huggingface.co and accept the terms at "
    f"https://huggingface.co/datasets/{REPOSITORY} (access is granted at once); (2) make a token that may read at "
    "https://huggingface.co/settings/tokens; (3) run `hf auth login`, or set HF_TOKEN, and call this again"
)


def hest(ids: str | Sequence[str], root: str | Path, *, slides: bool = True) -> Path:
    """Download samples of HEST-1k, and the table of all samples, from the Hugging Face hub.

    Files that are there already are not downloaded again, so a call that was interrupted is repeated. Outlines of cells
    come as archives and are unpacked. The dataset is under CC BY-NC-SA 4.0.

    Parameters
    ----------
    ids
        Names of samples, such as ``["TENX99", "INT1"]``. None of all: a slide takes up to several gigabytes.
    root
        Folder to download to, in the layout that :func:`spade.io.hest_cohort` reads.
    slides
        Whether to download slides. False: the patches of 112 µm around the spots in their place, far fewer bytes.

    Returns
    -------
    Path
        ``root``.

    Raises
    ------
    ImportError
        If ``huggingface_hub`` is not installed.
    PermissionError
        If the terms were not accepted or there is no token; the message lists the steps.
    FileNotFoundError
        If the hub has no such sample.
    ConnectionError
        If the hub cannot be reached.

    Examples
    --------
    >>> import spade as sp
    >>> sp.datasets.hest([], "hest_data")
    Traceback (most recent call last):
        ...
    ValueError: ids=[]: expected the name of a sample, or a list of names, such as ["TENX99", "INT1"].
    """
    names = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Sequence) else []
    if not names or not all(isinstance(name, str) and name.isalnum() for name in names):
        raise ValueError(
            f'ids={brief(ids)}: expected the name of a sample, or a list of names, such as ["TENX99", "INT1"].'
        )
    folder = check_path("root", root)
    wanted = [PATCHES if part == SLIDE and not slides else part for part in OF_SAMPLE]
    _download(folder, [*OF_ALL, *(part.format(id=name) for name in names for part in wanted)])
    needed = [part.format(id=name) for name in names for part in wanted[:3]]
    if missing := [part for part in needed if not (folder / part).is_file()]:
        raise FileNotFoundError(
            f"ids: the hub has no {shorten(missing, 3)}. The names of all samples are in the table, "
            f"sp.io.read_hest_metadata({str(folder)!r})."
        )
    for archive in tqdm(sorted((folder / "cellvit_seg").glob("*.zip")), desc="outlines of cells", unit="archive"):
        _unpack(archive)
    return folder


def _download(folder: Path, patterns: list[str]) -> None:
    """Download what fits the patterns; errors of the hub say what to do."""
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ImportError("sp.datasets.hest needs huggingface_hub: pip install huggingface_hub.") from error
    with hub_errors(f"{STEPS}.", "What was downloaded stays; call this again."):
        hub.snapshot_download(REPOSITORY, repo_type="dataset", local_dir=folder, allow_patterns=patterns)


def _unpack(archive: Path) -> None:
    """Unpack the files of an archive beside it, whatever folders it has, unless they are there."""
    with reading(archive, "a zip archive"), zipfile.ZipFile(archive) as files:
        for entry in files.infolist():
            if entry.is_dir():
                continue
            target = archive.parent / Path(entry.filename).name
            if not OUTLINES.fullmatch(target.name):
                raise damaged(archive, "a zip archive", f"it holds {entry.filename!r}, which is no file of outlines")
            if target.is_file() and target.stat().st_size == entry.file_size:
                continue
            half = target.with_name(f".{target.name}.half")
            with files.open(entry) as source, half.open("wb") as out:
                while piece := source.read(2**20):
                    out.write(piece)
            half.replace(target)
    logger.info("unpacked %s", archive.name)
