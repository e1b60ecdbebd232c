"""The trained mixture of data experts."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_matrix

from spade._checks import plural
from spade.core.arrays import Floats
from spade.core.checks import brief, check_path
from spade.core.experts.heads import Experts, Head, mix_experts
from spade.core.experts.routing import Routing
from spade.core.expression.covariation import Covariation
from spade.models._card import Card, optimiser, patches_read
from spade.models._config import SpadeConfig, stored_settings
from spade.models._files import (
    CONFIG,
    DAMAGED,
    SpadeDescription,
    SpadeSettings,
    StoredRouting,
    check_id,
    check_panel,
    damaged,
    history_json,
    model_id,
    read_config,
    read_folder,
    read_history,
    write_folder,
)
from spade.models._genes import GenePanel
from spade.models._rows import blocks, check_output, check_rows
from spade.models._sharing.shared import SharedModel

#: Rows that are encoded at a time.
BATCH = 4_096
ROUTING_ARRAYS = ("centroids", "assignment", "mean", "scale", "active")
#: Arrays of a learned gate; a routing by distances has none.
GATE_ARRAYS = ("gate", "gate_bias")


class SpadeModel(SharedModel):
    """Weights, gene panel and routing of a trained mixture of data experts.

    Made by :func:`spade.tl.train_spade` or :meth:`load`; arrays in, arrays out.

    Parameters
    ----------
    experts
        Image and spot heads of all experts.
    routing
        Prototypes of the image features.
    config
        Settings of the training.
    genes
        Gene panel, in the order of the spot heads' input; None if not known.
    expression_routing
        One prototype per expert, its mean training expression; None if not known.
    expression_mean
        Mean training expression ``(G,)``, which stands in for genes that a sample lacks.
    covariation
        Which genes changed together in training, for search by a gene signature; None if not known.
    history
        Losses per expert and epoch.
    facts
        What the card says about the training data: flat, JSON-able.

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
        covariation: Covariation | None = None,
        history: pd.DataFrame | None = None,
        facts: dict[str, Any] | None = None,
    ) -> None:
        self.experts = experts.eval()
        self.routing = routing
        self.config = config
        self.genes = genes
        self.expression_routing = expression_routing
        self.expression_mean = np.zeros(self.n_genes) if expression_mean is None else expression_mean
        self.covariation = covariation
        self.history = pd.DataFrame() if history is None else history
        self.facts = facts or {}

    def __repr__(self) -> str:
        sizes = (self.n_experts, "expert"), (self.routing.n_prototypes, "prototype"), (self.n_features, "feature")
        return (
            f"SpadeModel: {', '.join(plural(n, noun) for n, noun in sizes)} of "
            f"{self.config.encoder or 'an unnamed encoder'} ({self.config.use_rep or 'key not known'}), "
            f"{plural(self.n_genes, 'gene')} -> {self.dim}"
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
        return model_id(self._arrays(), [self._settings(), self.genes and self.genes.facts()])

    def _settings(self) -> SpadeSettings:
        """Return what shapes the output besides arrays and genes, JSON-able."""
        expression = self.expression_routing
        return {
            "config": stored_settings(self.config),
            "n_experts": self.n_experts,
            "dim": self.dim,
            "routing": _stored(self.routing, self.routing.groups),
            "expression_routing": None if expression is None else _stored(expression, ()),
        }

    def route(self, features: Floats) -> Floats:
        """Return routing weights ``(n, E)`` of image features ``(n, D)``; rows sum to 1, rows with NaN stay NaN."""
        return self.routing.weights(check_rows(features, self.n_features, "features", self))

    def route_expression(self, x: Floats | csr_matrix) -> Floats:
        """Return routing weights ``(n, E)`` of log-normalised expression ``(n, G)``.

        They come from its distance to the mean training expression of every expert.
        """
        if self.expression_routing is None:
            raise ValueError(
                "this model does not know the mean expression of its experts (published weights lack it), so it cannot "
                'route by expression: pass weights= (n, E) or weights="uniform".'
            )
        x = check_rows(x, self.n_genes, "x", self)
        weights = np.empty((x.shape[0], self.n_experts))
        for rows, block in blocks(x, BATCH):
            weights[rows] = self.expression_routing.weights(block)
        return weights

    def encode_image(
        self, features: Floats, weights: Floats | None = None, *, mix: str = "mean"
    ) -> NDArray[np.float32]:
        """Embed image features.

        Parameters
        ----------
        features
            ``(n, D)``, as the encoder returned them.
        weights
            Routing weights ``(n, E)``; None: those of :meth:`route`.
        mix
            ``"mean"``: Σ_e w_e f_e(x). ``"concat"``: all w_e f_e(x) side by side, since experts do not share axes.
            ``"logits"``: the same with f_e(x)/‖f_e(x)‖. Its product with embeddings of the other modality, made with
            ``weights`` of 1, is the mixture of similarities Σ_e w_e cos(f_e(x), f_e(y)) that MoDE uses.

        Returns
        -------
        ``(n, d)``, or ``(n, E·d)`` for ``"concat"`` and ``"logits"``; rows with NaN stay NaN.
        """
        features = check_rows(features, self.n_features, "features", self)
        weights = self.route(features) if weights is None else self._check_weights(weights, features.shape[0])
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
            Routing weights ``(n, E)``; ``"uniform"``: the same for every trained expert; None: those of
            :meth:`route_expression`. Weights from the image reveal the image: never use them to score retrieval.
        mix
            As in :meth:`encode_image`.

        Returns
        -------
        ``(n, d)``, or ``(n, E·d)`` for ``"concat"`` and ``"logits"``.
        """
        x = check_rows(x, self.n_genes, "x", self)
        if weights is None:
            weights = self.route_expression(x)
        elif isinstance(weights, str):
            if weights != "uniform":
                raise ValueError(f'weights={brief(weights)}: expected None, "uniform" or an array (n, E).')
            active = self.routing.active
            weights = np.tile(active / active.sum(), (x.shape[0], 1))
        else:
            weights = self._check_weights(weights, x.shape[0])
        return self._encode(self.experts.spot_projection, x, weights, mix)

    def _encode(self, head: Head, x: Floats | csr_matrix, weights: Floats, mix: str) -> NDArray[np.float32]:
        """Mix what the heads of all experts make of rows, some at a time."""
        out = np.empty((x.shape[0], self.dim * (1 if mix == "mean" else self.n_experts)), dtype=np.float32)
        for rows, block in blocks(x, BATCH):
            w = torch.from_numpy(weights[rows].astype(np.float32))
            mixed = mix_experts(head, torch.from_numpy(block), w, mix).numpy()
            out[rows] = check_output(mixed, self, block, weights[rows])
        return out

    def _check_weights(self, weights: ArrayLike, n: int) -> Floats:
        checked = np.asarray(weights, dtype=np.float64)
        if checked.shape != (n, self.n_experts):
            raise ValueError(f"weights has shape {checked.shape}; expected ({n}, {self.n_experts}): rows × experts.")
        return checked

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays = {f"experts.{name}": value.numpy() for name, value in self.experts.state_dict().items()}
        arrays["expression_mean"] = np.asarray(self.expression_mean)
        if self.covariation is not None:
            arrays |= self.covariation.stored()
        for stem, routing in (("routing", self.routing), ("expression_routing", self.expression_routing)):
            if routing is not None:
                names = ROUTING_ARRAYS + (() if routing.gate is None else GATE_ARRAYS)
                arrays |= {f"{stem}.{name}": np.asarray(getattr(routing, name)) for name in names}
        return arrays

    def save(self, path: str | PathLike[str]) -> None:
        """Write the model into the directory ``path``; an earlier model there is replaced in one step.

        Files: ``config.json``, ``model.safetensors``, ``genes.json`` (if the panel is known), the card, ``README.md``,
        and ``checksums.json``, their hashes, by which :meth:`load` finds a file that was changed.

        Examples
        --------
        >>> model.save("mob_model")  # doctest: +SKIP
        """
        description: SpadeDescription = {
            "id": self.id,
            **self._settings(),
            "facts": self.facts,
            "history": history_json(self.history),
        }
        write_folder(
            check_path("path", path), "SpadeModel", description, self._arrays(), self.genes, self._card().markdown()
        )

    def _card(self) -> Card:
        """Return the card: what the model is and how it was trained."""
        config = self.config
        rows = {
            "id": f"`{self.id}`",
            "image features": f"`{config.use_rep or 'key not known'}`: {plural(self.n_features, 'feature')} of encoder "
            f"{config.encoder or 'not recorded'} (id {config.encoder_id or 'not recorded'})",
            "patches": patches_read(config),
            "gene panel": f"{plural(self.n_genes, 'gene')}{'' if self.genes else ' (names not known)'}",
            "prototypes": f"{self.routing.n_prototypes}, feature scaling `{config.feature_scaling}`",
            "routing": "by distances to prototypes" if self.routing.gate is None else "by a learned gate",
            "loss": f"`{config.loss}`, temperature {config.temperature:g}",
            "optimiser": optimiser(config),
        }
        summary = (
            f"A mixture of {plural(self.n_experts, 'data expert')} that puts H&E patches and spot expression into one "
            f"space of {plural(self.dim, 'dimension')} (SPADE, arXiv 2506.21857)"
        )
        return Card("SPADE model", summary, rows, self.facts, "sp.tl.embed(samples, model)")

    @classmethod
    def load(cls, path: str | PathLike[str]) -> SpadeModel:
        """Read a model written by :meth:`save`; anything missing, unknown or of the wrong shape is an error.

        A changed file is an error as well; only the card, ``README.md``, may be edited or removed.

        Examples
        --------
        >>> model = sp.models.SpadeModel.load("mob_model")  # doctest: +SKIP
        """
        description, arrays, genes = read_folder(check_path("path", path), "SpadeModel")
        try:
            return cls._restore(description, arrays, genes)
        except DAMAGED as error:
            raise damaged(path, error) from error

    @classmethod
    def _restore(
        cls, description: SpadeDescription, arrays: dict[str, NDArray[Any]], genes: GenePanel | None
    ) -> SpadeModel:
        """Build a model of what was read, whose arrays are taken out of ``arrays``."""
        config = read_config(SpadeConfig, description["config"])
        routings: dict[str, Routing] = {}
        stored = {"routing": description["routing"], "expression_routing": description["expression_routing"]}
        for stem, facts in stored.items():
            if facts:
                named: dict[str, Any] = {name: arrays.pop(f"{stem}.{name}") for name in ROUTING_ARRAYS}
                named |= {name: arrays.pop(f"{stem}.{name}", None) for name in GATE_ARRAYS}
                routings[stem] = Routing(**named, temperature=facts["temperature"], groups=tuple(facts["groups"]))
        mean, routing = arrays.pop("expression_mean"), routings.get("routing")
        covariation = Covariation.take(arrays, len(mean))
        if routing is None:
            raise ValueError(f"{CONFIG} has no routing")
        if genes is not None:
            check_panel(genes, len(mean))
        with torch.device("meta"):  # nothing is allocated before the shapes are checked
            experts = Experts(description["n_experts"], routing.n_features, len(mean), description["dim"])
        state = {name.removeprefix("experts."): torch.from_numpy(array) for name, array in arrays.items()}
        experts.load_state_dict(state, strict=True, assign=True)
        model = cls(
            experts,
            replace(routing, settings=config.of_routing()),
            config=config,
            genes=genes,
            expression_routing=routings.get("expression_routing"),
            expression_mean=mean,
            covariation=covariation,
            history=read_history(description["history"]),
            facts=description["facts"],
        )
        check_id(description["id"], model.id)
        return model


def _stored(routing: Routing, groups: tuple[str, ...]) -> StoredRouting:
    return {"temperature": routing.temperature, "groups": list(groups)}
