"""The network of SEAL: an image tower and an expression tower with a joint space."""

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
#: End of the names of the batch counters of batch norms, which have no effect.
COUNT = "num_batches_tracked"


class SealNet(nn.Module):
    """Both towers, the image-to-gene head, and optionally a critic that predicts the section of an embedding.

    Parameters
    ----------
    vision
        Tower of pixels or features, with embeddings ``(n, d)``.
    dim
        Width d of the joint space.
    mean, deviation
        Mean and deviation of every gene in training ``(G,)``; the deviation of a constant gene is 1.
    n_sections
        Number of sections that the critic distinguishes. 0 leaves the critic out.
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

    def train(self, mode: bool = True) -> SealNet:  # noqa: FBT001, FBT002 (torch's signature)
        """Set the mode of all modules that learn; in a frozen encoder only the adapters do."""
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
        """Return every loss that is switched on, without its weight; that of the critic only in training.

        Parameters
        ----------
        image
            Image embeddings ``(n, d)``.
        expression
            Log-normalised expression ``(n, G)``.
        section
            Number of the section of every row ``(n,)``.
        config
            The losses and their settings.
        generator
            Generator of the noise in the expression tower.
        """
        losses: dict[str, Tensor] = {}
        if config.contrastive or config.gene_reconstruction or config.kl or config.adversary:
            gene = self.gene(expression, generator)
        if config.contrastive:
            groups = section if config.negatives == "section" else None
            losses["contrastive"] = info_nce(image, gene.z, config.temperature, groups)
        if config.gene_reconstruction:
            losses["gene_reconstruction"] = reconstruction(gene.y, expression, self.mean, self.deviation)
        if config.image_to_gene:
            losses["image_to_gene"] = reconstruction(self.image_to_gene(image), expression, self.mean, self.deviation)
        if config.kl:
            losses["kl"] = gene.kl() / self.gene.dim
        if config.adversary and self.critic is not None and self.training:  # the critic knows training sections only
            both = torch.cat([F.normalize(image, dim=-1), F.normalize(gene.z, dim=-1)])
            losses["adversary"] = F.cross_entropy(self.critic(reverse_gradient(both)), section.repeat(2))
        return losses

    def gene_losses(
        self, expression: Tensor, config: SealTraining, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Return the losses of the expression tower alone."""
        gene = self.gene(expression, generator)
        losses = {"gene_reconstruction": reconstruction(gene.y, expression, self.mean, self.deviation)}
        return losses | ({"kl": gene.kl() / self.gene.dim} if config.kl else {})

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yield the names and values of all weights that learn."""
        return ((name, value) for name, value in self.named_parameters() if value.requires_grad)

    def own_state(self) -> dict[str, Tensor]:
        """Return the state without a frozen encoder: everything that depends on training and its data."""
        added = {f"vision.{name}" for name, _ in adapters(self.vision)}
        frozen = isinstance(self.vision, PixelTower)
        return {
            name: value
            for name, value in self.state_dict().items()
            if (not (frozen and name.startswith("vision.")) or name in added) and not name.endswith(COUNT)
        }

    def load_own(self, state: dict[str, Tensor]) -> None:
        """Load an :meth:`own_state`; all names and shapes must match."""
        own = self.own_state()
        missing, extra = sorted(set(own) - set(state)), sorted(set(state) - set(own))
        shapes = [name for name in own if name in state and state[name].shape != own[name].shape]
        if missing or extra or shapes:
            raise ValueError(
                f"the weights do not match: {len(missing)} missing {missing[:3]}, {len(extra)} too many {extra[:3]}, "
                f"{len(shapes)} of other shape {shapes[:3]}"
            )
        with torch.no_grad():
            for name, value in own.items():
                value.copy_(state[name])
