"""Errors of the hub, and what to do about them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Longest part of a message of the hub that is shown.
MOST_SHOWN = 200
#: Answers of the hub to a token that is wrong, or may not do what was asked.
DENIED = (401, 403)


@contextmanager
def hub_errors(access: str, again: str) -> Iterator[None]:
    """Turn errors of the hub into ones that say what to do.

    Parameters
    ----------
    access
        What to do if there is no such repository, or the token is missing or may not do this.
    again
        What is left, and whether to call again, if the hub was not reached.

    Raises
    ------
    PermissionError
        Says ``access``.
    ConnectionError
        Says why the hub was not reached or refused, and ``again``.
    """
    from huggingface_hub import errors

    try:
        yield
    except (errors.GatedRepoError, errors.RepositoryNotFoundError, errors.LocalTokenNotFoundError) as error:
        raise PermissionError(access) from error
    except (
        errors.LocalEntryNotFoundError,
        errors.OfflineModeIsEnabled,
        errors.HTTPError,
        ConnectionError,
        RuntimeError,  # an upload that broke off
    ) as error:
        if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in DENIED:
            raise PermissionError(access) from error
        raise ConnectionError(
            f"the hub could not be reached or did not answer ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:MOST_SHOWN]}). Is there a network, and is HF_HUB_OFFLINE unset? {again}"
        ) from error
