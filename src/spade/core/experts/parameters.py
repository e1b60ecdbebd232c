"""The parameters of many experts as rows of one array, and AdamW on those rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from spade.core.experts.heads import Experts, StackedLinear

#: Settings of AdamW.
BETAS = (0.9, 0.999)
EPS = 1e-8


class ExpertParameters:
    """Parameters and moments of experts, one row per expert; the last column is the logarithm of the temperature.

    A row holds all weights of an expert, so rows are saved, moved, and dealt to devices. Modules that compute with some
    experts consist of views of their rows: an update of the rows updates the modules. Matrices are stored transposed,
    ``(d_in, d_out)``, because the product that gives their gradient is faster then.

    Parameters
    ----------
    n_experts
        Number of rows.
    d_image, d_spot, d_out
        Widths of :class:`~spade.core.experts.heads.Experts`.
    device
        Torch device.
    training
        Whether to allocate gradients and moments, which take three times the memory of the weights.
    """

    def __init__(
        self, n_experts: int, d_image: int, d_spot: int, d_out: int, device: str = "cpu", *, training: bool = False
    ) -> None:
        self.widths = (d_image, d_spot, d_out)
        with torch.device("meta"):
            expert = Experts(1, *self.widths)
        self.shapes = {name: tuple(value.shape[1:]) for name, value in expert.named_parameters()}
        self.size = sum(math.prod(shape) for shape in self.shapes.values())
        self.values, self.gradients, self.first, self.second = (
            torch.zeros(rows, self.size + 1, device=device) for rows in (n_experts, *[n_experts if training else 0] * 3)
        )

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Return rows ``(k, P + 1)`` as the named parameters of ``k`` experts, without a copy."""
        views, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            views[name] = rows[:, start:stop].view(len(rows), *shape[::-1]).transpose(1, -1)
            start = stop
        return views

    def module(self, start: int, stop: int) -> Experts:
        """Return the experts from ``start`` to before ``stop`` as a module whose parameters are views of their rows."""
        with torch.device("meta"):
            module = Experts(stop - start, *self.widths)
        gradients = self.views(self.gradients[start:stop]) if len(self.gradients) else {}
        for name, view in self.views(self.values[start:stop]).items():
            path, _, leaf = name.rpartition(".")
            layer = module.get_submodule(path)
            setattr(layer, leaf, nn.Parameter(view))
            if isinstance(layer, StackedLinear) and leaf == "weight":
                layer.gradient = gradients.get(name)
        return module

    def log_temperature(self, start: int, stop: int) -> Tensor:
        """Return the logarithms of the temperatures of some experts, a view that can require a gradient."""
        return self.values[start:stop, self.size].detach()

    def take(self, gradients: Sequence[Tensor | None]) -> None:
        """Write gradients into their rows.

        Parameters
        ----------
        gradients
            Gradients of the parameters in their order, each with a leading dimension for the first experts, and of the
            log temperature if it is learned. None stands for a gradient that the module has written itself.
        """
        k = next(len(gradient) for gradient in gradients if gradient is not None)
        places = [*self.views(self.gradients[:k]).values(), self.gradients[:k, self.size]]
        for place, gradient in zip(places, gradients, strict=False):
            if gradient is not None:
                place.copy_(gradient)

    @torch.no_grad()
    def update(self, steps: list[int], rates: list[float], weight_decay: float) -> None:
        """Take one step of AdamW with the first ``len(steps)`` experts, each with its own step and learning rate.

        Parameters
        ----------
        steps, rates
            Number of previous steps and learning rate of each expert.
        weight_decay
            Weight decay of the parameters; the temperature has none.
        """
        if self.values.device.type == "cpu":
            self._update_fused(steps, rates, weight_decay)
        else:
            self._update_rows(steps, rates, weight_decay)

    def _update_fused(self, steps: list[int], rates: list[float], weight_decay: float) -> None:
        """Update each expert in one pass over memory, with torch's fused kernel."""
        for e, (step, rate) in enumerate(zip(steps, rates, strict=True)):
            for columns, decay in ((slice(self.size), weight_decay), (slice(self.size, None), 0.0)):
                rows = self.values, self.gradients, self.first, self.second
                values, gradients, first, second = ([row[e, columns]] for row in rows)
                adamw(
                    values, gradients, first, second, [], [torch.tensor(float(step))], fused=True, amsgrad=False,
                    beta1=BETAS[0], beta2=BETAS[1], lr=rate, weight_decay=decay, eps=EPS, maximize=False,
                )  # fmt: skip

    def _update_rows(self, steps: list[int], rates: list[float], weight_decay: float) -> None:
        """Update all experts at once, in a few operations on whole rows with a rate for each row."""
        k, device = len(steps), self.values.device
        values, gradients, first, second = (row[:k] for row in (self.values, self.gradients, self.first, self.second))
        taken = torch.tensor(steps, dtype=torch.float64) + 1
        rate = torch.tensor(rates, dtype=torch.float64)
        correction = (1 - BETAS[1] ** taken).sqrt()
        factors = torch.stack([rate / (1 - BETAS[0] ** taken), correction, 1 - rate * weight_decay])
        size, correction, decay = factors.float().to(device).unsqueeze(2).unbind()
        values[:, : self.size].mul_(decay)
        first.lerp_(gradients, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradients, gradients, value=1 - BETAS[1])
        values.sub_(first / (second.sqrt() / correction + EPS) * size)
