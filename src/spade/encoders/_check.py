"""Whether an encoder can be used here and now, told without a network and without building it."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from spade.core.checks import check_text
from spade.encoders._spec import HUB, EncoderSpec, known, spec_of

#: Files of weights that timm looks for on the hub, the preferred one first.
TIMM_FILES = ("model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class EncoderStatus:
    """What is needed to use an encoder.

    Attributes
    ----------
    name
        Name in the registry.
    ready
        Whether ``sp.encoders.get(name)`` needs nothing else.
    installed
        Whether the Python package that it needs is there.
    cached
        File of the published weights in the cache of the hub; None: not there, or no file is needed.
    gated
        Whether access must be requested from the owner; None: not known.
    logged_in
        Whether a token of the hub was found.
    licence
        Terms of the weights.
    todo
        What to do next.
    """

    name: str
    ready: bool
    installed: bool
    cached: Path | None
    gated: bool | None
    logged_in: bool
    licence: str
    todo: str

    def __str__(self) -> str:
        state = "ready" if self.ready else "not ready"
        return f"{self.name}: {state}. Licence: {self.licence}. {self.todo}"


def check(encoder: str) -> EncoderStatus:
    """Say what is needed to use an encoder, without a network and without building it.

    Parameters
    ----------
    encoder
        A name as in :func:`get`.

    Returns
    -------
    EncoderStatus
        Whether its package is installed and its weights are in the cache, whether they are gated, their licence, and
        what to do next. ``print`` shows it in a line.

    Raises
    ------
    ValueError
        If the encoder is not known.

    Examples
    --------
    >>> import spade as sp
    >>> print(sp.encoders.check("texture"))
    texture: ready. Licence: BSD-3-Clause. Nothing to do: it needs no weights.
    """
    spec = known(check_text("encoder", encoder)) or spec_of(encoder)
    installed = spec.requires is None or _is_there(spec.requires)
    cached = in_cache(spec)
    logged_in = _logged_in()
    ready = installed and (_is_built_in(spec) or cached is not None)
    todo = _todo(spec, cached, installed=installed, logged_in=logged_in)
    return EncoderStatus(spec.name, ready, installed, cached, spec.gated, logged_in, spec.licence, todo)


def _todo(spec: EncoderSpec, cached: Path | None, *, installed: bool, logged_in: bool) -> str:
    """Return what to do next, in one or two sentences."""
    if _is_built_in(spec):
        return "Nothing to do: it needs no weights."
    steps = [] if installed else [f"Install the package of its authors: {spec.install}."]
    if cached is not None:
        return " ".join([*steps, f"The weights are in {str(cached)!r}."])
    if spec.page:
        return " ".join([*steps, f"Download the weights from {spec.page} and pass weights='path/to/file'."])
    hub = _repository(spec)
    if hub is None:
        return " ".join([*steps, f"No published weights are known of {spec.name!r}: pass weights='path/to/file'."])
    page = f"https://huggingface.co/{hub}"
    if spec.gated:
        steps.append(f"Request access at {page}.")
    if spec.gated and not logged_in:
        steps.append("Log in once with 'hf auth login'.")
    steps.append(f"The first use downloads the weights; without a network, copy them from {page} and pass weights=.")
    return " ".join(steps)


def _is_built_in(spec: EncoderSpec) -> bool:
    return spec.architecture is None and spec.model is None


def _repository(spec: EncoderSpec) -> str | None:
    """Return the place of the published weights on the hub, ``owner/name``."""
    if spec.model is None:
        return None
    if spec.model.startswith(HUB):
        return spec.model.removeprefix(HUB)
    import timm

    config = timm.get_pretrained_cfg(spec.model)
    return (config and config.hf_hub_id) or None


def in_cache(spec: EncoderSpec) -> Path | None:
    """Return the file of the published weights in the cache of the hub, as the next call would use it."""
    hub = _repository(spec)
    if hub is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    for file in (spec.file,) if spec.file else TIMM_FILES:
        try:
            found = try_to_load_from_cache(hub, file)
        except HFValidationError:  # no name of a repository
            return None
        if isinstance(found, str) and Path(found).stat().st_size:  # an empty file is the rest of a broken download
            return Path(found)
    return None


def _is_there(module: str) -> bool:
    """Whether a module can be imported; one of another package of this name does not count."""
    try:
        return find_spec(module) is not None
    except ImportError:
        return False


def _logged_in() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None
