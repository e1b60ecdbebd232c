"""SEAL's network: an image tower and an expression tower in one space, and what ties them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spade.core.arrays import Floats
from spade.core.seal.config import SealTraining
from spade.core.seal.gene_vae import GeneVAE
from spade.core.seal.losses import info_nce, reconstruction, reverse_gradient
from spade.core.vision.lora import AdaptedStage, LoraLinear, adapters
from spade.core.vision.towers import FeatureTower, PixelTower

#: Width of the hidden layers of the image-to-gene head and of the critic.
HEAD_WIDTH, CRITIC_WIDTH = 512, 256
#: Batches that a batch norm has seen, which changes nothing.
COUNT = "num_batches_tracked"


class SealNet(nn.Module):
    """Both towers, the image-to-gene head, and a critic that guesses sections, if they are to be made alike.

    Parameters
    ----------
    vision
        From pixels or features to ``(n, d)``.
    dim
        Width d.
    mean, deviation
        Of every gene in training ``(G,)``; a gene that does not vary has deviation 1.
    n_sections
        Sections that the critic tells apart; 0: no critic.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, vision: PixelTower | FeatureTower, dim: int, mean: Floats, deviation: Floats, n_sections: int = 0
    ) -> None:
        super().__init__()
        self.vision = vision
        self.gene = GeneVAE(len(mean), dim)
        self.image_to_gene = nn.Sequential(
            nn.Linear(dim, HEAD_WIDTH), nn.ReLU(), nn.Linear(HEAD_WIDTH, len(mean)), nn.ReLU()
        )
        self.critic = None
        if n_sections:
            self.critic = nn.Sequential(nn.Linear(dim, CRITIC_WIDTH), nn.ReLU(), nn.Linear(CRITIC_WIDTH, n_sections))
        for name, values in (("mean", mean), ("deviation", deviation)):
            self.register_buffer(name, torch.as_tensor(values, dtype=torch.float32).clone())

    def train(self, mode: bool = True) -> SealNet:
        """Set the mode of all that learns; of a frozen encoder only the dropout of its adapters."""
        super().train(mode)
        if isinstance(self.vision, PixelTower):
            self.vision.eval()
            for module in self.vision.modules():
                if isinstance(module, (LoraLinear, AdaptedStage)):
                    module.training = mode
        return self

    def losses(
        self,
        image: Tensor,
        expression: Tensor,
        section: Tensor,
        config: SealTraining,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return every loss that is switched on, without its weight; that of the critic only while training.

        Parameters
        ----------
        image
            Image embeddings ``(n, d)``.
        expression
            Log-normalised ``(n, G)``.
        section
            Number of every row's section ``(n,)``.
        config
            Which losses, and their settings.
        generator
            Noise of the expression tower.
        """
        found: dict[str, Tensor] = {}
        if config.contrastive or config.gene_reconstruction or config.kl or config.adversary:
            gene = self.gene(expression, generator)
        if config.contrastive:
            groups = section if config.negatives == "section" else None
            found["contrastive"] = info_nce(image, gene.z, config.temperature, groups)
        if config.gene_reconstruction:
            found["gene_reconstruction"] = reconstruction(gene.y, expression, self.mean, self.deviation)
        if config.image_to_gene:
            found["image_to_gene"] = reconstruction(self.image_to_gene(image), expression, self.mean, self.deviation)
        if config.kl:
            found["kl"] = gene.kl() / self.gene.dim
        if config.adversary and self.critic is not None and self.training:  # it knows no sections but those it learned
            both = torch.cat([F.normalize(image, dim=-1), F.normalize(gene.z, dim=-1)])
            found["adversary"] = F.cross_entropy(self.critic(reverse_gradient(both)), section.repeat(2))
        return found

    def gene_losses(
        self, expression: Tensor, config: SealTraining, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the expression tower alone."""
        gene = self.gene(expression, generator)
        found = {"gene_reconstruction": reconstruction(gene.y, expression, self.mean, self.deviation)}
        return found | ({"kl": gene.kl() / self.gene.dim} if config.kl else {})

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and values of all weights that learn."""
        return ((name, value) for name, value in self.named_parameters() if value.requires_grad)

    def own_state(self) -> dict[str, Tensor]:
        """Return the state without a frozen encoder: all that training changes, and what it takes from the data."""
        added = {f"vision.{name}" for name, _ in adapters(self.vision)}
        frozen = isinstance(self.vision, PixelTower)
        return {
            name: value
            for name, value in self.state_dict().items()
            if (not (frozen and name.startswith("vision.")) or name in added) and not name.endswith(COUNT)
        }

    def load_own(self, state: dict[str, Tensor]) -> None:
        """Put an :meth:`own_state` in place; every name and shape must fit."""
        own = self.own_state()
        missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
        if missing or extra or shapes:
            raise ValueError(
                f"{len(missing)} weights are missing {missing[:3]}, {len(extra)} too many {extra[:3]}, {len(shapes)} of other shape "
                f"{shapes[:3]}"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
