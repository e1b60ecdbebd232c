"""A training job: data, settings and initial weights, from which any process can train any expert."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from torch import Tensor

from spade.core.arrays import Floats
from spade.core.experts.config import TrainingConfig
from spade.core.experts.heads import Experts
from spade.core.experts.loop import Run
from spade.core.experts.parameters import ExpertParameters
from spade.core.files import CSR_PARTS
from spade.core.rng import torch_stream
from spade.core.roles import TRAIN, VAL

#: File of the settings of a job.
FACTS = "job.json"


@dataclass(frozen=True)
class TrainingJob:
    """Data, settings and initial weights of a training.

    Attributes
    ----------
    features, expression
        Image features ``(n, D)`` float32 or float16 and log-normalised expression ``(n, G)`` CSR float32; both may be
        memory-mapped.
    expert_of
        Expert of every row.
    role
        ``TRAIN``, ``VAL`` or ``NOT_USED`` for every row.
    n_experts
        Number of experts.
    config
        Loss and optimiser.
    mean, deviation
        The heads read features as ``(x - mean) / deviation``; None leaves them as they are.
    init
        Initial rows of :class:`~spade.core.experts.parameters.ExpertParameters`, one per expert. None draws them at
        random.
    seed
        Seed of initialisation, shuffling and dropout.
    """

    features: Floats
    expression: csr_matrix
    expert_of: NDArray[np.integer]
    role: NDArray[np.integer]
    n_experts: int
    config: TrainingConfig
    mean: Floats | None = None
    deviation: Floats | None = None
    init: NDArray[np.float32] | None = None
    seed: int = 0

    @property
    def widths(self) -> tuple[int, int, int]:
        """Widths of features, expression and joint space."""
        return self.features.shape[1], self.expression.shape[1], self.config.dim

    def loads(self) -> NDArray[np.int64]:
        """Return the number of training rows of each expert, its share of the work."""
        return np.bincount(self.expert_of[self.role == TRAIN], minlength=self.n_experts)

    def start(self, expert: int) -> Tensor:
        """Return the row of parameters of an expert before its first step."""
        if self.init is not None:
            row = torch.from_numpy(np.array(self.init[expert], dtype=np.float32))
        else:
            parameters = ExpertParameters(1, *self.widths)
            parameters.module(0, 1).initialise([torch_stream(self.seed, "initialisation", expert)])
            row = parameters.values[0]
        row[-1] = math.log(self.config.temperature)
        return row

    def run(self, expert: int, device: str) -> Run:
        """Return the run of an expert before its first step; without training rows it takes no step."""
        train, val = (np.flatnonzero((self.expert_of == expert) & (self.role == kind)) for kind in (TRAIN, VAL))
        share, others = self.config.out_of_cluster, np.zeros(0, np.int64)
        if share and len(train):
            others = np.flatnonzero((self.expert_of != expert) & (self.role == TRAIN))
        n_others = min(round(share / (1 - share) * len(train)), len(others))
        return Run(
            expert,
            train,
            val,
            torch_stream(self.seed, "shuffling", expert),
            torch_stream(self.seed, "dropout", expert, torch.device(device).type),
            others,
            n_others,
        )

    def module(self, rows: Sequence[Tensor]) -> Experts:
        """Stack the rows of all experts into one module with memory of its own."""
        parameters = ExpertParameters(self.n_experts, *self.widths)
        for e, row in enumerate(rows):
            parameters.values[e] = row
        module = Experts(self.n_experts, *self.widths)
        module.load_state_dict(parameters.module(0, self.n_experts).state_dict())
        return module.eval()

    def save(self, folder: Path) -> None:
        """Write everything into a folder, arrays as ``.npy``."""
        arrays = {"features": self.features, "expert_of": self.expert_of, "role": self.role}
        arrays |= {name: getattr(self.expression, name) for name in CSR_PARTS}
        arrays |= {
            name: getattr(self, name) for name in ("mean", "deviation", "init") if getattr(self, name) is not None
        }
        for name, array in arrays.items():
            np.save(folder / f"{name}.npy", array, allow_pickle=False)
        names = {field.name for field in fields(TrainingConfig)}  # the config may be of a class with more settings
        facts = {
            "config": {name: value for name, value in asdict(self.config).items() if name in names},
            "n_experts": self.n_experts,
            "n_genes": self.expression.shape[1],
            "seed": self.seed,
        }
        (folder / FACTS).write_text(json.dumps(facts))

    @classmethod
    def load(cls, folder: Path) -> TrainingJob:
        """Read what :meth:`save` wrote; arrays are memory-mapped, so that the processes of one machine share them."""
        facts = json.loads((folder / FACTS).read_text())
        arrays = {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in folder.glob("*.npy")}
        n, parts = len(arrays["features"]), [arrays.pop(name) for name in reversed(CSR_PARTS)]
        expression = csr_matrix((n, facts.pop("n_genes")), dtype=np.float32)
        expression.data, expression.indices, expression.indptr = parts
        return cls(**arrays, expression=expression, config=TrainingConfig(**facts.pop("config")), **facts)


def rows_of(experts: Experts) -> NDArray[np.float32]:
    """Return a module as rows of :class:`~spade.core.experts.parameters.ExpertParameters`."""
    d_image, d_spot = (head.projection.weight.shape[-1] for head in (experts.image_projection, experts.spot_projection))
    parameters = ExpertParameters(experts.n_experts, d_image, d_spot, experts.dim)
    parameters.module(0, experts.n_experts).load_state_dict(experts.state_dict())
    return parameters.values.numpy()
