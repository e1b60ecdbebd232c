"""The parameters of many experts as rows of one array, and AdamW on those rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from spade.core.heads import Experts

BETAS = (0.9, 0.999)
EPS = 1e-8


class FlatExperts:
    """Parameters and moments of experts, one row each; the last column is the logarithm of the temperature.

    A row is all there is to know of an expert's weights, so rows are what is saved, moved and dealt to devices. Modules that
    compute with the first ``k`` experts are made of views: an update of the rows is an update of them.

    Parameters
    ----------
    n_experts
        Rows.
    d_image, d_spot, d_out
        Widths, as of :class:`~spade.core.heads.Experts`.
    device
        Torch device.
    """

    def __init__(self, n_experts: int, d_image: int, d_spot: int, d_out: int, device: str = "cpu") -> None:
        self.widths = (d_image, d_spot, d_out)
        with torch.device("meta"):
            one = Experts(1, *self.widths)
        self.shapes = {name: tuple(value.shape[1:]) for name, value in one.named_parameters()}
        self.size = sum(math.prod(shape) for shape in self.shapes.values())
        self.values, self.first, self.second = (torch.zeros(n_experts, self.size + 1, device=device) for _ in range(3))

    def views(self, rows: Tensor) -> dict[str, Tensor]:
        """Cut rows ``(k, P + 1)`` into the parameters of ``k`` experts, without a copy."""
        found, start = {}, 0
        for name, shape in self.shapes.items():
            stop = start + math.prod(shape)
            found[name] = rows[:, start:stop].view(len(rows), *shape)
            start = stop
        return found

    def module(self, start: int, stop: int) -> Experts:
        """Return experts ``start`` to ``stop`` as a module whose parameters are these rows."""
        with torch.device("meta"):
            module = Experts(stop - start, *self.widths)
        for name, view in self.views(self.values[start:stop]).items():
            path, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(path), leaf, nn.Parameter(view))
        return module

    def log_temperature(self, start: int, stop: int) -> Tensor:
        """Return the logarithm of the temperature of some experts, a view that may need a gradient."""
        return self.values[start:stop, self.size].detach()

    @torch.no_grad()
    def update(self, gradients: list[Tensor], steps: list[int], rates: list[float], weight_decay: float) -> None:
        """Take one step of AdamW with the first ``len(steps)`` experts, each at its own step and learning rate.

        Parameters
        ----------
        gradients
            Of the parameters in order, each with a leading dimension for the experts, and of the log temperature if
            it learns.
        steps, rates
            Steps taken before, and learning rates.
        weight_decay
            Of the parameters; the temperature has none.
        """
        if self.values.device.type == "cpu":
            self._update_fused(gradients, steps, rates, weight_decay)
        else:
            self._update_rows(gradients, steps, rates, weight_decay)

    def _update_fused(self, gradients: list[Tensor], steps: list[int], rates: list[float], weight_decay: float) -> None:
        """One pass over memory for each expert, in torch's fused kernel."""
        arrays = self.values, self.first, self.second
        for e, (step, rate) in enumerate(zip(steps, rates, strict=True)):
            weights = [[view[0] for view in self.views(rows[e : e + 1]).values()] for rows in arrays]
            temperature = [[rows[e, self.size :]] for rows in arrays]
            own = [gradient[e].contiguous() for gradient in gradients]
            for (values, first, second), parts, decay in (
                (weights, own[: len(self.shapes)], weight_decay),
                (temperature, [part.reshape(1) for part in own[len(self.shapes) :]], 0.0),
            ):
                if parts:
                    counts = [torch.tensor(float(step)) for _ in parts]
                    adamw(
                        values, parts, first, second, [], counts, fused=True, amsgrad=False, beta1=BETAS[0], beta2=BETAS[1],
                        lr=rate, weight_decay=decay, eps=EPS, maximize=False,
                    )  # fmt: skip

    def _update_rows(self, gradients: list[Tensor], steps: list[int], rates: list[float], weight_decay: float) -> None:
        """All experts at once: a few operations on whole rows, with a rate for each row."""
        k, device = len(steps), self.values.device
        columns = [gradient.reshape(k, -1) for gradient in gradients]
        width = sum(column.shape[1] for column in columns)
        gradient = torch.cat(columns, 1)
        values, first, second = (rows[:k, :width] for rows in (self.values, self.first, self.second))
        taken = torch.tensor(steps, dtype=torch.float64).unsqueeze(1) + 1
        rate = torch.tensor(rates, dtype=torch.float64).unsqueeze(1)
        size = (rate / (1 - BETAS[0] ** taken)).float().to(device)
        correction = (1 - BETAS[1] ** taken).sqrt().float().to(device)
        values[:, : self.size].mul_((1 - rate * weight_decay).float().to(device))
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        values.sub_(first / (second.sqrt() / correction + EPS) * size)
