"""A folder as one commit of a repository of the hub."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from spade._checks import shorten
from spade.core.checks import check_text
from spade.io._hub.errors import hub_errors

logger = logging.getLogger("spade")


def check_token(token: str | None) -> None:
    """Raise if there is no token to write with, neither given nor stored."""
    import huggingface_hub as hub

    if token is not None:
        check_text("token", token)
    elif hub.get_token() is None:
        raise PermissionError(
            "token=None: no token of the hub was found on this machine. Make one that may write at "
            "https://huggingface.co/settings/tokens, then run `hf auth login`, set HF_TOKEN or pass token=."
        )


def push(
    folder: Path,
    repo_id: str,
    *,
    names: Sequence[str],
    mark: str,
    private: bool | None,
    token: str | None,
    branch: str | None,
    message: str,
) -> str:
    """Commit the files of ``folder`` and return the commit.

    Parameters
    ----------
    folder
        What is uploaded.
    repo_id
        Repository; made if it is not there.
    names
        Files that the commit replaces or, if ``folder`` lacks them, removes. Others stay.
    mark
        Name of a file that says that those of ``names`` may be replaced.
    private
        Whether only its owner sees the repository. None: a new one is private, another stays as it is.
    token
        None: the stored one.
    branch
        None: the main one. Made, from the main one, if it is not there.
    message
        Message of the commit.
    """
    import huggingface_hub as hub
    from huggingface_hub.errors import RepositoryNotFoundError

    api = hub.HfApi(token=token)
    access = (
        f"repo_id={repo_id!r}: the token may not write there. Make one that may at "
        "https://huggingface.co/settings/tokens and pass it as token=, or choose an owner that you belong to."
    )
    with hub_errors(access, "Nothing was committed; call this again."):
        try:
            is_private = api.model_info(repo_id).private
        except RepositoryNotFoundError:
            api.create_repo(repo_id, private=private is not False)
        else:
            if private not in (None, is_private):
                raise ValueError(
                    f"private={private}: {repo_id} exists and is {'private' if is_private else 'public'}; nothing was "
                    f"uploaded. Change that at https://huggingface.co/{repo_id}/settings, or leave private= out."
                )
        if branch is not None:
            api.create_branch(repo_id, branch=branch, exist_ok=True)
        there = set(api.list_repo_files(repo_id, revision=branch))
        if (others := sorted(there.intersection(names) - {"README.md"})) and mark not in there:
            raise FileExistsError(
                f"repo_id={repo_id!r} holds files that spade did not save, {shorten(others)}, so they are not "
                "replaced. Choose another name."
            )
        new = {path.name: path for path in sorted(folder.iterdir())}
        commit = api.create_commit(
            repo_id,
            [
                *(hub.CommitOperationAdd(name, path) for name, path in new.items()),
                *(hub.CommitOperationDelete(name) for name in sorted(there.intersection(names) - set(new))),
            ],
            commit_message=message,
            revision=branch,
        )
    logger.info("uploaded to %s: revision=%r", repo_id, commit.oid)
    return str(commit.oid)
