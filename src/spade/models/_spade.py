"""The trained mixture of data experts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, issparse

from spade.core.arrays import Floats
from spade.core.experts.heads import Experts, Head, mix_experts
from spade.core.experts.routing import Routing
from spade.models._card import model_card, optimiser
from spade.models._config import SpadeConfig
from spade.models._files import CONFIG, GENES, read_folder, read_history, write_folder
from spade.models._genes import GenePanel

BATCH = 4_096
ROUTING_ARRAYS = ("centroids", "assignment", "mean", "scale", "active")


class SpadeModel:
    """Weights, gene panel and routing of a trained mixture of data experts.

    Made by :func:`spade.tl.train_spade` or :meth:`load`; arrays in, arrays out.

    Parameters
    ----------
    experts
        Image and spot heads of all experts.
    routing
        Prototypes of the image features.
    config
        Settings it was trained with.
    genes
        Gene panel, in the order of the spot heads' input; None if not known.
    expression_routing
        One prototype per expert: its mean training expression; None if not known.
    expression_mean
        Mean training expression ``(G,)``, which stands in for genes that a sample lacks.
    history
        Losses per expert and epoch.
    facts
        What the card says of the training data: flat, JSON-able.

    Examples
    --------
    >>> import spade as sp
    >>> samples = sp.datasets.toy(1, 60)
    >>> sp.pp.patches(samples)
    >>> sp.pp.encode_patches(samples)
    >>> model = sp.tl.train_spade(
    ...     samples, use_rep="X_texture", genes=sp.pp.select_genes(samples), n_prototypes=4, n_experts=2, n_epochs=2
    ... )
    >>> model.encode_image(samples[0]["table"].obsm["X_texture"]).shape
    (60, 256)
    """

    def __init__(
        self,
        experts: Experts,
        routing: Routing,
        *,
        config: SpadeConfig,
        genes: GenePanel | None = None,
        expression_routing: Routing | None = None,
        expression_mean: Floats | None = None,
        history: pd.DataFrame | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.experts = experts.eval()
        self.routing = routing
        self.config = config
        self.genes = genes
        self.expression_routing = expression_routing
        self.expression_mean = np.zeros(self.n_genes) if expression_mean is None else expression_mean
        self.history = pd.DataFrame() if history is None else history
        self.facts = facts or {}

    def __repr__(self) -> str:
        return (
            f"SpadeModel: {self.n_experts} experts, {self.routing.n_prototypes} prototypes, {self.n_features} features of "
            f"{self.config.encoder or 'an unnamed encoder'} ({self.config.use_rep}), {self.n_genes} genes -> {self.dim}"
        )

    @property
    def n_experts(self) -> int:
        """Number of experts."""
        return self.experts.n_experts

    @property
    def n_features(self) -> int:
        """Width D of the image features."""
        return self.experts.image_projection.projection.weight.shape[-1]

    @property
    def n_genes(self) -> int:
        """Width G of the expression input."""
        return self.experts.spot_projection.projection.weight.shape[-1]

    @property
    def dim(self) -> int:
        """Width of the joint space."""
        return self.experts.dim

    @cached_property
    def id(self) -> str:
        """First 12 hex digits of the SHA-256 of all arrays, the gene panel and the settings."""
        digest = hashlib.sha256()
        for name, array in sorted(self._arrays().items()):
            digest.update(f"{name}{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps([self._settings(), self.genes and self.genes.facts()]).encode())
        return digest.hexdigest()[:12]

    def _settings(self) -> dict[str, Any]:
        """What shapes the output beside arrays and genes, JSON-able."""
        return {
            "config": asdict(self.config),
            "n_experts": self.n_experts,
            "dim": self.dim,
            "routing": {"temperature": self.routing.temperature, "groups": list(self.routing.groups)},
            "expression_routing": self.expression_routing
            and {"temperature": self.expression_routing.temperature, "groups": []},
        }

    def route(self, features: Floats) -> Floats:
        """Return routing weights ``(n, E)`` of image features ``(n, D)``; rows sum to 1, rows with NaN stay NaN."""
        return self.routing.weights(self._check(features, self.n_features, "features"))

    def route_expression(self, x: Floats | csr_matrix) -> Floats:
        """Return weights ``(n, E)`` of log-normalised expression ``(n, G)`` by its distance to the experts' mean expression."""
        if self.expression_routing is None:
            raise ValueError(
                "this model does not know its experts' mean expression (published weights lack it), so expression cannot route "
                'itself: pass weights= (n, E) or weights="uniform".'
            )
        blocks = [self.expression_routing.weights(block) for block in _blocks(self._check(x, self.n_genes, "x"))]
        return np.concatenate([np.empty((0, self.n_experts)), *blocks])

    def encode_image(
        self, features: Floats, weights: Floats | None = None, *, mix: str = "mean"
    ) -> NDArray[np.float32]:
        """Embed image features.

        Parameters
        ----------
        features
            ``(n, D)``, as the encoder gave them.
        weights
            Routing weights ``(n, E)``; those of :meth:`route` if None.
        mix
            ``"mean"``: Σ_e w_e f_e(x). ``"concat"``: every w_e f_e(x) side by side, as experts do not share axes. ``"logits"``: the same
            of f_e(x)/‖f_e(x)‖; the product with embeddings of the other modality made with ``weights`` of 1 is then the mixture of
            similarities Σ_e w_e cos(f_e(x), f_e(y)) that MoDE uses.

        Returns
        -------
        ``(n, d)``, or ``(n, E·d)`` for ``"concat"`` and ``"logits"``; rows with NaN stay NaN.
        """
        features = self._check(features, self.n_features, "features")
        weights = self.route(features) if weights is None else self._check_weights(weights, len(features))
        return self._encode(self.experts.image_projection, features, weights, mix)

    def encode_expression(
        self, x: Floats | csr_matrix, weights: Floats | str | None = None, *, mix: str = "mean"
    ) -> NDArray[np.float32]:
        """Embed expression.

        Parameters
        ----------
        x
            ``(n, G)`` log-normalised expression in panel order, dense or CSR.
        weights
            Routing weights ``(n, E)``; ``"uniform"``: every trained expert alike; None: by the expression itself, see
            :meth:`route_expression`. Weights from the image reveal the image: never use them to score retrieval.
        mix
            As in :meth:`encode_image`.

        Returns
        -------
        ``(n, d)``, or ``(n, E·d)`` for ``"concat"`` and ``"logits"``.
        """
        x = self._check(x, self.n_genes, "x")
        if weights is None:
            weights = self.route_expression(x)
        elif isinstance(weights, str):
            if weights != "uniform":
                raise ValueError(f'weights={weights!r}: expected None, "uniform" or an array (n, E).')
            active = self.routing.active
            weights = np.tile(active / active.sum(), (x.shape[0], 1))
        else:
            weights = self._check_weights(weights, x.shape[0])
        return self._encode(self.experts.spot_projection, x, weights, mix)

    def _encode(self, head: Head, x: Floats | csr_matrix, weights: Floats, mix: str) -> NDArray[np.float32]:
        out = np.empty((x.shape[0], self.dim * (1 if mix == "mean" else self.n_experts)), dtype=np.float32)
        for start, block in zip(range(0, x.shape[0], BATCH), _blocks(x), strict=True):
            w = torch.from_numpy(weights[start : start + BATCH].astype(np.float32))
            out[start : start + BATCH] = mix_experts(head, torch.from_numpy(block), w, mix).numpy()
        return out

    def _check(self, values: Any, width: int, name: str) -> Any:
        values = csr_matrix(values) if issparse(values) else np.asarray(values)
        if values.ndim != 2 or values.shape[1] != width:
            raise ValueError(f"{name} has shape {values.shape}; this model was trained on width {width}. {self!r}")
        return values

    def _check_weights(self, weights: Any, n: int) -> Floats:
        weights = np.asarray(weights, dtype=np.float64)
        if weights.shape != (n, self.n_experts):
            raise ValueError(f"weights has shape {weights.shape}; expected ({n}, {self.n_experts}): rows × experts.")
        return weights

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {f"experts.{name}": value.numpy() for name, value in self.experts.state_dict().items()}
        arrays["expression_mean"] = np.asarray(self.expression_mean)
        for stem, routing in (("routing", self.routing), ("expression_routing", self.expression_routing)):
            if routing is not None:
                arrays |= {f"{stem}.{name}": np.asarray(getattr(routing, name)) for name in ROUTING_ARRAYS}
        return arrays

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model into the directory ``path``; a model that is there is replaced in one step.

        Files: ``config.json``, ``model.safetensors``, ``genes.json`` (if the panel is known) and ``README.md``, the card.

        Examples
        --------
        >>> model.save("mob_model")  # doctest: +SKIP
        """
        description = {
            "id": self.id,
            **self._settings(),
            "facts": self.facts,
            "history": self.history.astype(object).where(self.history.notna(), None).to_dict(orient="split"),
        }
        write_folder(Path(path), "SpadeModel", description, self._arrays(), self.genes, self._card())

    def _card(self) -> str:
        """Say what the model is and how it was trained."""
        config = self.config
        patches = f"{config.patch_um:g} µm at {config.patch_px} px" if config.patch_um else "not recorded"
        rows = {
            "id": f"`{self.id}`",
            "image features": f"`{config.use_rep}`: {self.n_features} features of encoder "
            f"{config.encoder or 'not recorded'} (id {config.encoder_id or 'not recorded'})",
            "patches": patches,
            "gene panel": f"{self.n_genes} genes{'' if self.genes else ' (names not known)'}",
            "prototypes": f"{self.routing.n_prototypes}, feature scaling `{config.feature_scaling}`",
            "loss": f"`{config.loss}`, temperature {config.temperature:g}",
            "optimiser": optimiser(config),
        }
        summary = (
            f"A mixture of {self.n_experts} data experts that puts H&E patches and spot expression into one space of "
            f"{self.dim} dimensions (SPADE, arXiv 2506.21857)"
        )
        return model_card("SPADE model", summary, rows, self.facts, "sp.tl.embed(samples, model)")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SpadeModel:
        """Read a model written by :meth:`save`; anything missing, unknown or of the wrong shape is an error.

        Examples
        --------
        >>> model = sp.models.SpadeModel.load("mob_model")  # doctest: +SKIP
        """
        description, arrays, genes = read_folder(Path(path), "SpadeModel")
        try:
            return cls._restore(description, arrays, genes)
        except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
            what = " ".join(str(error).split())
            raise ValueError(
                f"{path} cannot be read as a model ({type(error).__name__}: {what}). Its files were changed, or are not of one model."
            ) from error

    @classmethod
    def _restore(
        cls, description: dict[str, Any], arrays: dict[str, NDArray[Any]], genes: GenePanel | None
    ) -> SpadeModel:
        known = {field.name for field in fields(SpadeConfig)}
        if set(description["config"]) != known:
            odd = sorted(set(description["config"]) ^ known)
            raise ValueError(f"the settings {odd} in {CONFIG} are unknown or missing")
        routings: dict[str, Routing] = {}
        for stem in ("routing", "expression_routing"):
            if facts := description[stem]:
                named: dict[str, Any] = {name: arrays.pop(f"{stem}.{name}") for name in ROUTING_ARRAYS}
                routings[stem] = Routing(**named, temperature=facts["temperature"], groups=tuple(facts["groups"]))
        mean, routing = arrays.pop("expression_mean"), routings.get("routing")
        if routing is None:
            raise ValueError(f"{CONFIG} has no routing")
        if genes is not None and len(genes) != len(mean):
            raise ValueError(f"{GENES} lists {len(genes)} genes, but the weights are for {len(mean)}")
        with torch.device("meta"):  # nothing is allocated before the shapes are checked
            experts = Experts(description["n_experts"], routing.n_features, len(mean), description["dim"])
        state = {name.removeprefix("experts."): torch.from_numpy(array) for name, array in arrays.items()}
        experts.load_state_dict(state, strict=True, assign=True)
        config = SpadeConfig(**description["config"])
        model = cls(
            experts,
            replace(routing, settings=config.of_routing()),
            config=config,
            genes=genes,
            expression_routing=routings.get("expression_routing"),
            expression_mean=mean,
            history=read_history(description["history"]),
            facts=description["facts"],
        )
        if model.id != description["id"]:
            raise ValueError(f"arrays, genes and settings have id {model.id}, but {CONFIG} says {description['id']}")
        return model


def _blocks(x: Floats | csr_matrix) -> Iterator[NDArray[np.float32]]:
    """Dense float32 blocks of rows, one at a time."""
    for start in range(0, x.shape[0], BATCH):
        block: Any = x[start : start + BATCH]
        yield np.asarray(block.toarray() if issparse(block) else block, dtype=np.float32)
