"""Whether the hub can be reached at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Seconds within which a hub that can be reached answers, or at least a refusal comes.
PATIENCE = 2
#: What the client's libraries (requests, httpx) name the failure of a connection. Being slow is another.
FAILED = ("ConnectionError", "ConnectError")


def why_not_reached() -> str:
    """Return why no connection to the hub can be made; nothing if one can, or it was not to be asked.

    This is one short try, through the same client and proxies. The client itself repeats every request for half a
    minute.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import HTTPError
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return ""
    try:
        get_session().head(constants.ENDPOINT, timeout=PATIENCE)
    except (OSError, HTTPError) as error:
        if type(error).__name__ in FAILED:
            return f"{constants.ENDPOINT} cannot be reached: {' '.join(str(error).split())}"
    return ""


@contextmanager
def offline(*, when: bool) -> Iterator[None]:
    """Let the client of the hub read its cache alone, and ask nothing."""
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or when
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
