"""Files of a repository of the hub, in the hub's own cache."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from spade.core.checks import brief, check_text
from spade.core.errors import warn
from spade.io._hub.errors import hub_errors
from spade.io._hub.reach import why_not_reached

logger = logging.getLogger("spade")
#: A commit, and the name of a repository with its owner.
COMMIT = re.compile(r"[0-9a-f]{40}")
REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
MAIN = "main"
#: Bytes that are hashed at a time.
PIECE = 1 << 20


@dataclass(frozen=True)
class Snapshot:
    """Files of one commit of a repository."""

    repo_id: str
    commit: str
    folder: Path


def check_repository(value: object) -> str:
    """Return ``value`` if it is the name of a repository with its owner, else raise."""
    if not isinstance(value, str) or not REPOSITORY.fullmatch(value) or "--" in value or ".." in value:
        raise ValueError(f"repo_id={brief(value)}: expected the name of a model on the hub, 'owner/name'.")
    return value


def fetch(
    repo_id: str, names: Sequence[str], *, revision: str | None, cache_dir: Path | None, token: str | None
) -> Snapshot:
    """Download the files with these names, unless they are in the cache, and check their hashes.

    A branch or tag is resolved to its commit. Without a network it is what it was at the last download.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import LocalEntryNotFoundError, RevisionNotFoundError

    wanted = MAIN if revision is None else check_text("revision", revision)
    if token is not None:
        check_text("token", token)
    access = (
        f"repo_id={repo_id!r}: the hub has no such model, or it is private or asks for consent. Look at "
        f"https://huggingface.co/{repo_id}, then run `hf auth login`, set HF_TOKEN or pass the token= of an account "
        "that may read it."
    )
    kept = f"repo_id={repo_id!r} is read without a network once this revision ({wanted}) is in the cache."
    with hub_errors(access, kept):
        unreached = why_not_reached()
        reason = "" if COMMIT.fullmatch(wanted) else unreached or _why_no_answer(repo_id, wanted, token)
        try:
            folder = hub.snapshot_download(
                repo_id,
                revision=wanted,
                cache_dir=cache_dir,
                token=token,
                allow_patterns=list(names),
                local_files_only=bool(unreached),
            )
        except LocalEntryNotFoundError as error:
            raise ConnectionError(unreached or str(error)) from error
        except RevisionNotFoundError as error:
            raise ValueError(
                f"revision={wanted!r}: {repo_id} has no such branch, tag or commit (all 40 digits). They are listed at "
                f"https://huggingface.co/{repo_id}/commits/main."
            ) from error
    snapshot = Snapshot(repo_id, Path(folder).name, Path(folder))
    check_unchanged([snapshot.folder / name for name in names], f"{repo_id} at commit {snapshot.commit}")
    if reason:
        warn(
            f"{repo_id}: the hub could not be asked what {wanted!r} is now ({reason}). What is in the cache is read: "
            f"commit {snapshot.commit}."
        )
    elif wanted != snapshot.commit:
        logger.info(
            "%s: %r is commit %s; revision=%r reads the same files again", repo_id, wanted, *[snapshot.commit] * 2
        )
    return snapshot


def _why_no_answer(repo_id: str, revision: str, token: str | None) -> str:
    """Return why the hub cannot say what a branch is; nothing if it can, or was not to be asked."""
    import huggingface_hub as hub
    from huggingface_hub import errors

    try:
        hub.HfApi(token=token).model_info(repo_id, revision=revision)
    except errors.OfflineModeIsEnabled:
        return ""
    except (errors.HTTPError, ConnectionError) as error:
        return type(error).__name__
    return ""


def check_unchanged(files: Sequence[Path], what: str) -> None:
    """Raise if a file of a snapshot is not what the hub has: the cache links each to a file that is named by its hash.

    On systems without links there is nothing to compare with.
    """
    paths = [path for path in files if path.exists()]
    if not any(path.is_symlink() for path in paths):
        return
    for path in paths:
        stored = path.resolve()
        if not path.is_symlink() or not _has_hash(stored, stored.name):
            raise ValueError(
                f"{what}: {path.name} was changed after the download, or damaged. Delete {str(stored)!r} and call this "
                "again, with a network."
            )


def _has_hash(path: Path, name: str) -> bool:
    """Whether a file has the hash that it is named by: SHA-256 of large files, the hash of git of others."""
    git = COMMIT.fullmatch(name) is not None  # the hash of a file has as many digits as that of a commit
    known = hashlib.sha1(usedforsecurity=False) if git else hashlib.sha256()
    if git:
        known.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            known.update(piece)
    return known.hexdigest() == name
