"""Weights of SPADE as its authors publish them: one file per expert."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from spade.core.experts.heads import Experts
from spade.core.experts.routing import Routing
from spade.io._state_dict import TORCH_SUFFIXES, read_state
from spade.models._config import SpadeConfig
from spade.models._spade import SpadeModel

NUMBERED = re.compile(r"proto_?(\d+)(?!\d)")


def read_published_spade(
    folder: str | PathLike[str],
    centroids: str | PathLike[str] | ArrayLike,
    assignment: str | PathLike[str] | ArrayLike,
    *,
    use_rep: str = "",
    encoder: str | None = None,
) -> SpadeModel:
    """Read SPADE from the files of its authors.

    Parameters
    ----------
    folder
        Holds one ``…proto{e}….pt`` (or ``.pth``) per expert: a state dict, bare or under ``"model"``, with the keys
        ``image_projection.{projection,fc,layer_norm}.{weight,bias}`` and the same of ``spot_projection``.
    centroids
        Fine centroids ``(K, D)``, an array or a ``.npy`` file, in the units of the image features.
    assignment
        Expert of each centroid ``(K,)``, an array or a ``.npy`` file; experts are numbered from 0.
    use_rep
        ``obsm`` key of the features that the model reads; may also be given to :func:`spade.tl.embed`.
    encoder
        Name of the encoder of these features, for the card.

    Returns
    -------
    SpadeModel
        It does not know its gene panel (``genes`` is None), so :func:`spade.tl.embed` needs ``genes=`` for samples with
        expression; nor its experts' mean expression, so expression is encoded with given weights. Distances are taken as they
        are (``feature_scaling="none"``), as the authors do.

    Raises
    ------
    FileNotFoundError
        No such folder, or an expert without a file.
    ValueError
        Several files for one expert, a file that holds anything but tensors (nothing is ever executed), keys or shapes
        that do not fit.

    Examples
    --------
    >>> model = sp.models.read_published_spade("weights", "centroids.npy", "assignment.npy")  # doctest: +SKIP
    """
    place = Path(folder)
    centres = _array(centroids, "centroids").astype(np.float64)
    experts_of = _array(assignment, "assignment")
    if centres.ndim != 2 or experts_of.shape != (len(centres),):
        raise ValueError(
            f"centroids has shape {centres.shape} and assignment {experts_of.shape}; expected (K, D) and (K,): the expert of every "
            "centroid."
        )
    if not np.array_equal(experts_of, experts_of.astype(np.int64)) or experts_of.min() < 0:
        raise ValueError("assignment: expected whole numbers from 0, the expert of every centroid.")
    if not np.isfinite(centres).all():
        raise ValueError("centroids has NaN or infinite values.")
    experts_of = experts_of.astype(np.int64)
    n_experts, width = int(experts_of.max()) + 1, centres.shape[1]
    states = [_read_expert(path, width) for path in _files(place, n_experts)]
    shapes = {name: tuple(value.shape) for name, value in states[0].items()}
    dim, n_genes = shapes["spot_projection.projection.weight"]
    with torch.device("meta"):
        experts = Experts(n_experts, width, n_genes, dim)
    try:
        stacked = {name: torch.stack([state[name].float() for state in states]) for name in shapes}
        experts.load_state_dict(stacked, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder}: the experts' files do not fit together: {' '.join(str(error).split())}") from error
    routing = Routing(
        centres, experts_of, np.zeros(width), np.ones(width), active=np.isin(np.arange(n_experts), experts_of)
    )
    config = SpadeConfig(
        use_rep=use_rep,
        encoder=encoder,
        n_prototypes=len(centres),
        n_experts=n_experts,
        feature_scaling="none",
        dim=dim,
    )
    facts = {"weights": f"read from the published files of {n_experts} experts in {place.name}"}
    return SpadeModel(experts.requires_grad_(False), routing, config=config, facts=facts)


def _array(value: Any, name: str) -> NDArray[Any]:
    if not isinstance(value, (str, PathLike)):
        return np.asarray(value)
    if not Path(value).is_file():
        raise FileNotFoundError(f"{name}={str(value)!r}: there is no such file.")
    try:
        return np.load(value, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise ValueError(f"{name}={str(value)!r} is not a .npy file of numbers ({error}).") from error


def _files(folder: Path, n_experts: int) -> list[Path]:
    """One file per expert, in order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r} is not a folder.")
    found: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TORCH_SUFFIXES and (numbers := NUMBERED.findall(path.stem)):
            found.setdefault(int(numbers[-1]), []).append(path)
    for expert, paths in sorted(found.items()):
        if len(paths) > 1:
            raise ValueError(
                f"folder={str(folder)!r} has {len(paths)} files for expert {expert}: {', '.join(path.name for path in paths)}. Leave "
                "one of them (of the best epoch, say) there."
            )
    missing = [expert for expert in range(n_experts) if expert not in found]
    if missing:
        raise FileNotFoundError(
            f"folder={str(folder)!r} has no file …proto{{e}}….pt for experts {missing} of the {n_experts} that assignment names; "
            f"there are files for {sorted(found) or 'none'}."
        )
    if more := sorted(set(found) - set(range(n_experts))):
        raise ValueError(f"folder={str(folder)!r} has files for experts {more}, but assignment names only {n_experts}.")
    return [found[expert][0] for expert in range(n_experts)]


def _read_expert(path: Path, width: int) -> dict[str, torch.Tensor]:
    state = read_state(path)
    with torch.device("meta"):
        wanted = {name: value.ndim - 1 for name, value in Experts(1, 1, 1, 1).state_dict().items()}
    if set(state) != set(wanted):
        raise ValueError(
            f"{path}: keys {sorted(set(wanted) - set(state))} are missing and {sorted(set(state) - set(wanted))} are not expected; an "
            "expert has projection, fc and layer_norm of image_projection and spot_projection."
        )
    if odd := sorted(
        name for name, ndim in wanted.items() if state[name].ndim != ndim or not state[name].is_floating_point()
    ):
        raise ValueError(f"{path}: {odd} are not floating-point arrays of the expected dimensions.")
    if (found := state["image_projection.projection.weight"].shape[1]) != width:
        raise ValueError(f"{path} reads {found} image features, but the centroids have {width}.")
    return state
