"""Heads of multiple-instance learning, which read a bag of patches."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TypeAlias, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init

from spade.core.checks import check_choice, check_count, check_share

HEADS = ("mean", "abmil", "transmil")
#: Attention heads of TransMIL.
N_HEADS = 8
#: Sides of the depthwise kernels of TransMIL's position encoding.
KERNELS = (7, 5, 3)
Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)
#: One width; or those of successive layers and, last, of the attention.
Widths: TypeAlias = int | tuple[int, ...]


def check_widths(hidden: object) -> Widths:
    """Return one width, or two or more as a tuple; raise if they are anything else."""
    if not isinstance(hidden, (tuple, list)):
        return check_count("hidden", hidden)
    if len(hidden) < 2:
        raise ValueError(f"hidden={hidden!r}: expected one width, or those of the layers and, last, of the attention.")
    return tuple(check_count("hidden", width) for width in hidden)


def first_width(hidden: Widths) -> int:
    """Return the width of the first hidden layer."""
    return hidden if isinstance(hidden, int) else hidden[0]


def _drawn(layer: Layer, generator: torch.Generator) -> Layer:
    """Draw weights and biases from U(−1/√fan_in, 1/√fan_in), as torch does, but with ``generator``."""
    bound = 1 / math.sqrt(layer.weight[0].numel())
    with torch.no_grad():
        for value in layer.parameters():
            value.uniform_(-bound, bound, generator=generator)
    return layer


def _linear(d_in: int, d_out: int, generator: torch.Generator) -> nn.Linear:
    return _drawn(skip_init(nn.Linear, d_in, d_out), generator)


class Dropout(nn.Module):
    """Dropout with its own generator."""

    def __init__(self, p: float, generator: torch.Generator) -> None:
        super().__init__()
        self.p, self.generator = p, generator

    def forward(self, x: Tensor) -> Tensor:
        """Set a share ``p`` of the values to 0 in training, and scale the rest up."""
        if not self.training or self.p == 0:
            return x
        mask = torch.empty(x.shape, dtype=x.dtype, device=self.generator.device)
        return x * mask.bernoulli_(1 - self.p, generator=self.generator).div_(1 - self.p).to(x.device)


class _BagHead(nn.Module):
    """The base of all heads, which checks the bag."""

    def __init__(self, d_in: int) -> None:
        super().__init__()
        self.d_in = d_in

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Return outputs ``(n_out,)`` and attention ``(n,)``, which sums to 1, of a bag ``(n, d_in)``."""
        if bag.ndim != 2 or bag.shape[1] != self.d_in or not len(bag):
            raise ValueError(f"bag has shape {tuple(bag.shape)}; expected (n, {self.d_in}) with n > 0.")
        return self.read(bag)

    def read(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class MeanPool(_BagHead):
    """A linear layer on the mean of the bag."""

    def __init__(self, d_in: int, n_out: int, generator: torch.Generator) -> None:
        super().__init__(d_in)
        self.out = _linear(d_in, n_out, generator)

    def read(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the bag; every patch has the same weight."""
        return self.out(bag.mean(0)), bag.new_full((len(bag),), 1 / len(bag))


class GatedAttention(_BagHead):
    """Attention-based pooling with a gate (Ilse, Tomczak & Welling 2018).

    ``h = Dropout(ReLU(W x + b))``; ``a = softmax over patches of wᵀ (tanh(V h) ⊙ sigmoid(U h))``; outputs
    ``C Σ a h + c``. The two halves of ``gate`` are V and U, each of half the width of h, or of the last of several
    widths, the others of which are those of successive layers h.
    """

    def __init__(self, d_in: int, n_out: int, hidden: Widths, dropout: float, generator: torch.Generator) -> None:
        super().__init__(d_in)
        *layers, width = (hidden, max(1, hidden // 2)) if isinstance(hidden, int) else hidden
        self.embed = _linear(d_in, layers[0], generator)
        self.deeper = nn.ModuleList(_linear(*pair, generator) for pair in pairwise(layers))
        self.gate = _linear(layers[-1], 2 * width, generator)
        self.score = _linear(width, 1, generator)
        self.out = _linear(layers[-1], n_out, generator)
        self.dropout = Dropout(dropout, generator)

    def read(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the bag; the order of patches does not matter."""
        h = self.dropout(F.relu(self.embed(bag)))
        for layer in self.deeper:
            h = self.dropout(F.relu(layer(h)))
        content, gate = self.gate(h).chunk(2, dim=1)
        attention = self.score(torch.tanh(content) * torch.sigmoid(gate)).squeeze(1).softmax(0)
        return self.out(attention @ h), attention


class SelfAttention(nn.Module):
    """``x + Dropout(W attention(LayerNorm(x)))`` over the tokens of one bag, ``(n, d)``."""

    def __init__(self, d: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(d)
        self.qkv = _linear(d, 3 * d, generator)
        self.out = _linear(d, d, generator)
        self.dropout = Dropout(dropout, generator)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = self.qkv(self.norm(x)).view(len(x), 3, N_HEADS, -1).permute(1, 2, 0, 3).unbind()
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer; memory never holds the n × n scores."""
        q, k, v = (part.unsqueeze(0) for part in self._parts(x))
        mixed = F.scaled_dot_product_attention(q, k, v)[0]
        return x + self.dropout(self.out(mixed.transpose(0, 1).reshape(x.shape)))

    def of_first(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output ``(d,)`` of the first token, and its attention ``(n,)`` to all, averaged over heads."""
        q, k, v = self._parts(x)
        attention = (q[:, :1] @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
        return x[0] + self.dropout(self.out((attention @ v).reshape(-1))), attention[:, 0].mean(0)


class TransMIL(_BagHead):
    """Correlated multiple-instance learning (Shao et al. 2021).

    A linear layer, a class token, self-attention, position encoding by depthwise convolutions (PPEG), self-attention,
    and a linear layer on the class token. Patches fill the smallest possible square row by row, in the order given, and
    the first ones are repeated to complete it. So the order matters, and should be that of the tissue.

    Attention is exact softmax through ``scaled_dot_product_attention``; the authors use the Nyström approximation.
    Memory grows with the number of patches, time with its square. A CPU is fast enough for about 4,000 patches a bag;
    use a GPU for more.

    The attention returned is that of the class token to the patches in the last layer, the mean over heads.
    """

    def __init__(self, d_in: int, n_out: int, hidden: Widths, dropout: float, generator: torch.Generator) -> None:
        super().__init__(d_in)
        hidden = first_width(hidden)
        if hidden % N_HEADS:
            raise ValueError(f"hidden={hidden}: expected a multiple of {N_HEADS}, the attention heads of TransMIL.")
        self.embed = _linear(d_in, hidden, generator)
        self.token = nn.Parameter(0.02 * torch.randn(1, hidden, generator=generator))
        self.first, self.last = (SelfAttention(hidden, dropout, generator) for _ in range(2))
        self.place = nn.ModuleList(
            _drawn(skip_init(nn.Conv2d, hidden, hidden, side, padding=side // 2, groups=hidden), generator)
            for side in KERNELS
        )
        self.norm = nn.LayerNorm(hidden)
        self.out = _linear(hidden, n_out, generator)

    def read(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Pool the bag; the order of patches matters."""
        n, side = len(bag), math.isqrt(len(bag) - 1) + 1
        h = F.relu(self.embed(bag))
        x = self.first(torch.cat([self.token, h, h[: side * side - n]]))
        x = torch.cat([x[:1], self._placed(x[1:], side)])
        token, attention = self.last.of_first(x)
        of_patch, of_repeated = attention[1 : n + 1], attention[n + 1 :]
        n_repeated = len(of_repeated)
        of_patch = torch.cat([of_patch[:n_repeated] + of_repeated, of_patch[n_repeated:]])
        return self.out(self.norm(token)), of_patch / of_patch.sum()

    def _placed(self, x: Tensor, side: int) -> Tensor:
        """Add the outputs of the convolutions around every patch."""
        square = x.T.reshape(1, -1, side, side)
        return torch.stack([square, *(kernel(square) for kernel in self.place)]).sum(0).reshape(x.shape[1], -1).T


def make_head(
    name: str, d_in: int, n_out: int, *, hidden: Widths = 256, dropout: float = 0.25, generator: torch.Generator
) -> nn.Module:
    """Return a head that turns a bag ``(n, d_in)`` into outputs ``(n_out,)`` and attention ``(n,)``, which sums to 1.

    Parameters
    ----------
    name
        ``"mean"``: :class:`MeanPool`, which has neither hidden layer nor dropout; ``"abmil"``: :class:`GatedAttention`;
        ``"transmil"``: :class:`TransMIL`.
    d_in, n_out
        Widths of the patches and the outputs.
    hidden
        Width of the hidden layer; or widths of the hidden layers and, last, of the attention. TransMIL has one width,
        the first.
    dropout
        Share of the hidden values that is dropped in training.
    generator
        CPU generator of all weights, and of dropout until :func:`~spade.core.slides.train.train_bags` replaces it.
    """
    check_choice("head", name, HEADS)
    check_share("dropout", dropout, "[0, 1)")
    for argument, width in (("d_in", d_in), ("n_out", n_out)):
        check_count(argument, width)
    hidden = check_widths(hidden)
    if name == "mean":
        return MeanPool(d_in, n_out, generator)
    return (GatedAttention if name == "abmil" else TransMIL)(d_in, n_out, hidden, dropout, generator)
