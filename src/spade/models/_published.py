"""Weights of SPADE as its authors published them: one file per expert."""

from __future__ import annotations

import re
from collections.abc import Sequence
from os import PathLike
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from spade._checks import plural
from spade.core.arrays import Rows
from spade.core.checks import check_path
from spade.core.experts.heads import Experts
from spade.core.experts.routing import Routing
from spade.io._files.arrays import read_npy
from spade.io._state_dict import TORCH_SUFFIXES, check_finite, keys_fitting, read_state
from spade.models._config import SpadeConfig
from spade.models._genes import GenePanel
from spade.models._spade import SpadeModel

#: An expert of a higher number is a mistake.
MAX_EXPERTS = 2**16
NUMBERED = re.compile(r"proto_?(\d+)(?!\d)")


def read_published_spade(
    folder: str | PathLike[str],
    centroids: str | PathLike[str] | ArrayLike,
    assignment: str | PathLike[str] | ArrayLike,
    *,
    use_rep: str | None = None,
    encoder: str | None = None,
    genes: GenePanel | Sequence[str] | None = None,
) -> SpadeModel:
    """Read a SPADE model from the files that its authors published.

    Parameters
    ----------
    folder
        Folder with one ``…proto{e}….pt`` (or ``.pth``) per expert: a state dict, bare or under ``"model"``, with the
        keys ``image_projection.{projection,fc,layer_norm}.{weight,bias}`` and the same keys of ``spot_projection``.
    centroids
        Fine centroids ``(K, D)``, an array or a ``.npy`` file, in the units of the image features.
    assignment
        Expert of each centroid ``(K,)``, an array or a ``.npy`` file; experts are numbered from 0.
    use_rep
        ``obsm`` key of the features that the model reads. None: name it when calling :func:`spade.tl.embed`.
    encoder
        Name of the encoder of these features, for the card; features of another known encoder are refused.
    genes
        Names of the genes that the experts read, in their order. Expression is read as log1p of normalised counts, as
        the paper says; the notebook that prepares the authors' samples saves raw counts. For experts trained on those
        pass ``GenePanel(names, scale="counts")``. None: no names were published with the weights.

    Returns
    -------
    SpadeModel
        Without ``genes``, :func:`spade.tl.embed` needs ``genes=`` for samples with expression. The model does not know
        the mean expression of its experts, so expression is encoded with weights that you pass. Features are not scaled
        before distances are taken (``feature_scaling="none"``), as in the authors' code.

    Raises
    ------
    FileNotFoundError
        If the folder, or the file of an expert, is missing.
    ValueError
        If an expert has several files, a file holds anything but finite tensors (nothing in it is ever executed), keys
        or shapes do not fit, or there are not as many ``genes`` as the experts read.

    Examples
    --------
    >>> model = sp.models.read_published_spade("weights", "centroids.npy", "assignment.npy")  # doctest: +SKIP
    """
    place = check_path("folder", folder)
    centres, expert_of = _prototypes(centroids, assignment)
    n_experts, width = int(expert_of.max()) + 1, centres.shape[1]
    experts = _stack([_read_expert(path, width) for path in _files(place, n_experts)], place)
    routing = Routing(
        centres, expert_of, np.zeros(width), np.ones(width), active=np.isin(np.arange(n_experts), expert_of)
    )
    config = SpadeConfig(
        use_rep=use_rep,
        encoder=encoder,
        n_prototypes=len(centres),
        n_experts=n_experts,
        feature_scaling="none",
        dim=experts.dim,
    )
    facts = {"weights": f"read from the published files of {plural(n_experts, 'expert')} in {place.name}"}
    return SpadeModel(experts, routing, config=config, genes=_panel(genes, experts, place), facts=facts)


def _panel(genes: GenePanel | Sequence[str] | None, experts: Experts, folder: Path) -> GenePanel | None:
    """Return the panel of some names, as many as the experts read."""
    if genes is None:
        return None
    panel = GenePanel.of(genes)
    if len(panel) != (n_genes := experts.spot_projection.projection.weight.shape[-1]):
        raise ValueError(f"genes: got {len(panel)} names, but the experts in {folder} read {n_genes}; name each.")
    return panel


def _prototypes(
    centroids: str | PathLike[str] | ArrayLike, assignment: str | PathLike[str] | ArrayLike
) -> tuple[NDArray[np.float64], Rows]:
    """Read the centroids and the expert of each."""
    given = [_array(value, name) for value, name in ((centroids, "centroids"), (assignment, "assignment"))]
    if any(array.dtype.kind not in "biuf" for array in given):
        raise ValueError(f"centroids ({given[0].dtype}) and assignment ({given[1].dtype}): expected numbers.")
    centres, expert_of = given[0].astype(np.float64), given[1].astype(np.float64)
    if centres.ndim != 2 or expert_of.shape != (len(centres),):
        raise ValueError(
            f"centroids has shape {centres.shape} and assignment {expert_of.shape}; expected (K, D) and (K,): the "
            "expert of every centroid."
        )
    whole = np.isfinite(expert_of).all() and np.array_equal(expert_of, np.rint(expert_of))
    if not len(expert_of) or not whole or expert_of.min() < 0 or expert_of.max() >= MAX_EXPERTS:
        raise ValueError(
            f"assignment: expected whole numbers from 0 to below {MAX_EXPERTS:,}, the expert of every centroid."
        )
    if not np.isfinite(centres).all():
        raise ValueError("centroids has NaN or infinite values.")
    return centres, expert_of.astype(np.int64)


def _stack(states: list[dict[str, torch.Tensor]], folder: Path) -> Experts:
    """Join the weights of single experts."""
    shapes = {name: tuple(value.shape) for name, value in states[0].items()}
    dim, n_genes = shapes["spot_projection.projection.weight"]
    with torch.device("meta"):
        experts = Experts(len(states), shapes["image_projection.projection.weight"][1], n_genes, dim)
    try:
        stacked = {name: torch.stack([state[name].float() for state in states]) for name in shapes}
        experts.load_state_dict(stacked, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"{folder}: the experts' files do not fit together: {' '.join(str(error).split())}") from error
    return experts.requires_grad_(requires_grad=False)


def _array(value: str | PathLike[str] | ArrayLike, name: str) -> NDArray[np.generic]:
    if not isinstance(value, (str, PathLike)):
        return np.asarray(value)
    return read_npy(check_path(name, value), name)


def _files(folder: Path, n_experts: int) -> list[Path]:
    """Return the file of every expert, in their order."""
    if not folder.is_dir():
        raise FileNotFoundError(f"folder={str(folder)!r} is not a folder.")
    files_of: dict[int, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix in TORCH_SUFFIXES and (numbers := NUMBERED.findall(path.stem)):
            files_of.setdefault(int(numbers[-1]), []).append(path)
    for expert, paths in sorted(files_of.items()):
        if len(paths) > 1:
            raise ValueError(
                f"folder={str(folder)!r} has {len(paths)} files for expert {expert}: "
                f"{', '.join(path.name for path in paths)}. Keep one of them (that of the best epoch, say)."
            )
    missing = [expert for expert in range(n_experts) if expert not in files_of]
    if missing:
        raise FileNotFoundError(
            f"folder={str(folder)!r} has no file …proto{{e}}….pt for experts {missing} of the {n_experts} that "
            f"assignment names; there are files for {sorted(files_of) or 'none'}."
        )
    if more := sorted(set(files_of) - set(range(n_experts))):
        raise ValueError(f"folder={str(folder)!r} has files for experts {more}, but assignment names only {n_experts}.")
    return [files_of[expert][0] for expert in range(n_experts)]


def _read_expert(path: Path, width: int) -> dict[str, torch.Tensor]:
    """Read the weights of one expert, whose names, dimensions and input width must fit."""
    with torch.device("meta"):
        wanted = {name: value.ndim - 1 for name, value in Experts(1, 1, 1, 1).state_dict().items()}
    state, _ = keys_fitting(read_state(path), wanted, str(path))
    if set(state) != set(wanted):
        raise ValueError(
            f"{path}: keys {sorted(set(wanted) - set(state))} are missing and {sorted(set(state) - set(wanted))} are "
            "not expected; an expert has projection, fc and layer_norm of image_projection and spot_projection."
        )
    if odd := sorted(
        name for name, ndim in wanted.items() if state[name].ndim != ndim or not state[name].is_floating_point()
    ):
        raise ValueError(f"{path}: {odd} are not floating-point arrays of the expected dimensions.")
    if (n_features := state["image_projection.projection.weight"].shape[1]) != width:
        raise ValueError(f"{path} reads {n_features} image features, but the centroids have {width}.")
    check_finite(state, str(path))
    return state
