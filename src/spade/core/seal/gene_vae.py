"""The expression tower of SEAL: a variational autoencoder of genes with planar flows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

HIDDEN = (1024, 512)
N_FLOWS = 3
#: Deviation of the initial weights of a flow, which is nearly the identity.
FLOW_SCALE = 0.01


class PlanarFlow(nn.Module):
    r"""One step :math:`z' = z + u \tanh(w^\top z + b)` (Rezende & Mohamed 2015, equation 10)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.u, self.w = (nn.Parameter(FLOW_SCALE * torch.randn(dim)) for _ in range(2))
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return ``z'`` ``(n, d)`` and its log determinant ``(n,)``.

        This is :math:`\log|\det \partial z'/\partial z| = \log|1 + u^\top w (1 - \tanh^2)|`.
        """
        slope = torch.tanh(z @ self.w + self.b)
        determinant = 1 + (1 - slope**2) * (self.u @ self.w)
        return z + slope.unsqueeze(1) * self.u, torch.log(torch.abs(determinant) + 1e-8)


@dataclass(frozen=True)
class Encoded:
    """Output of the autoencoder: ``z`` ``(n, d)`` after the flows, and the reconstruction ``y`` ``(n, G)``.

    ``mean`` and ``log_variance`` ``(n, d)`` are those of the posterior; ``log_det`` ``(n,)`` is that of the flows.
    """

    z: Tensor
    y: Tensor
    mean: Tensor
    log_variance: Tensor
    log_det: Tensor

    def kl(self) -> Tensor:
        r"""Return the mean of :math:`KL[q(z) \| N(0, I)]` over the batch.

        It is :math:`\frac12 \sum(\sigma^2 + \mu^2 - 1 - \log \sigma^2) - \sum \log|\det J|`.
        """
        gaussian = 0.5 * (self.log_variance.exp() + self.mean**2 - 1 - self.log_variance).sum(1)
        return (gaussian - self.log_det).mean()


class GeneVAE(nn.Module):
    """Genes → 1024 → 512 (linear, batch norm, ReLU) → μ, log σ² → three flows → z → 512 → 1024 → genes.

    Parameters
    ----------
    n_genes, dim
        Widths of expression and of z.
    hidden, n_flows
        Widths of the hidden layers, and number of flows.
    """

    def __init__(self, n_genes: int, dim: int, hidden: tuple[int, ...] = HIDDEN, n_flows: int = N_FLOWS) -> None:
        super().__init__()
        self.n_genes, self.dim = n_genes, dim
        widths = (n_genes, *hidden)
        self.encoder = nn.Sequential(
            *(
                layer
                for d_in, d_out in zip(widths, hidden, strict=False)
                for layer in (nn.Linear(d_in, d_out), nn.BatchNorm1d(d_out), nn.ReLU())
            )
        )
        self.fc_mu, self.fc_logvar = nn.Linear(hidden[-1], dim), nn.Linear(hidden[-1], dim)
        self.flows = nn.ModuleList(PlanarFlow(dim) for _ in range(n_flows))
        back = (dim, *reversed(hidden))
        self.decoder = nn.Sequential(
            *(layer for d_in, d_out in itertools.pairwise(back) for layer in (nn.Linear(d_in, d_out), nn.ReLU())),
            nn.Linear(back[-1], n_genes),
        )

    def forward(self, x: Tensor, generator: torch.Generator | None = None) -> Encoded:
        """Encode and decode expression ``(n, G)``; z is drawn in training, else it comes from the posterior mean."""
        hidden = self.encoder(x)
        mean, log_variance = self.fc_mu(hidden), self.fc_logvar(hidden)
        z = mean
        if self.training:
            noise = torch.empty_like(mean).normal_(generator=generator)
            z = mean + torch.exp(0.5 * log_variance) * noise
        log_det = torch.zeros(len(x), device=x.device)
        for flow in self.flows:
            z, change = flow(z)
            log_det = log_det + change
        return Encoded(z, self.decoder(z), mean, log_variance, log_det)
