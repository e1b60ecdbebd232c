"""A small vision transformer: pretraining on patches alone, and measures of what fine-tuning on expression adds."""

from __future__ import annotations

import numpy as np
import timm
import torch
import torch.nn.functional as F

import spade as sp
from spade._samples.encode import placed_sections
from spade._samples.open import iter_samples
from spade.core.evaluation.retrieval import pair_ranks
from spade.core.expression.correlation import pearson_per_gene
from spade.core.expression.normalise import log_normalise
from spade.core.patches.sources import LivePatches
from spade.core.seal.augment import Augment, augment
from spade.core.vision.towers import to_unit

ARCHITECTURE, PX, WIDTH = "test_vit", 160, 64
#: Settings for fine-tuning on few spots, where the encoder can still gain.
FEW = {"batch_size": 40, "lr": 5e-3, "gene_warmup": 20, "negatives": "section", "dropout": 0.0}
TUNE = {"n_blocks": 6, "stain_jitter": 0.0}
#: Side in pixels of the thumbnails that the network reconstructs from its features.
THUMBNAIL_PX = 2


def pretrain(samples, path, n_epochs, seed=0):
    """Train the network to reconstruct a thumbnail of every patch from its 64 features, and save its weights."""
    patches = [
        LivePatches([placed], PX).take(np.arange(len(rows)))
        for sample in iter_samples(samples)
        for rows, placed in placed_sections(sample, "patches")
    ]
    pixels = torch.from_numpy(np.concatenate(patches))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, head = timm.create_model(ARCHITECTURE, num_classes=0), torch.nn.Linear(WIDTH, 3 * THUMBNAIL_PX**2)
        optimiser = torch.optim.AdamW([*model.parameters(), *head.parameters()], lr=2e-3)
        draws = torch.Generator().manual_seed(seed)
        for _ in range(n_epochs):
            for rows in torch.randperm(len(pixels)).split(32):
                x = augment(to_unit(pixels[rows]), Augment(stain=0), draws)
                target = (F.adaptive_avg_pool2d(x, THUMBNAIL_PX).flatten(1) - 0.7) / 0.1
                loss = F.mse_loss(head(model((x - 0.5) / 0.5)), target)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
    torch.save(model.state_dict(), path)


def measured(sample, genes):
    """Log-normalised expression of a panel, dense."""
    table = sample["table"]
    return log_normalise(table.X.tocsr())[:, table.var_names.get_indexer(genes.names)].toarray()


def by_ridge(train, test, genes, key):
    """Mean Pearson correlation of the genes within sections, and median rank of a spot's own expression.

    Expression is predicted by ridge regression from one representation. The rank is among all spots of the section, by
    the cosine of predicted and measured expression, every gene standardised by the training spots.
    """
    sp.tl.predict_expression(test, reference=train, method="ridge", use_rep=key, genes=genes, key_added="by_ridge")
    truth = [measured(sample, genes) for sample in test]
    of_train = np.concatenate([measured(sample, genes) for sample in train])
    mean, deviation = of_train.mean(0), of_train.std(0)
    predicted = [sample["table"].obsm["X_by_ridge"] for sample in test]
    pearson = [np.nanmean(pearson_per_gene(y, p)) for y, p in zip(truth, predicted, strict=True)]
    ranks = [pair_ranks((p - mean) / deviation, (y - mean) / deviation) for y, p in zip(truth, predicted, strict=True)]
    return float(np.mean(pearson)), float(np.median(np.concatenate(ranks)))


def in_joint_space(test, model, **options):
    """Median rank of the true partner among the spots of its section, and that of chance; means of both directions."""
    table = sp.tl.retrieval_metrics(test, model, **options)
    own = table[table["gallery"] == "same_section"]
    return float(own["median_rank"].mean()), float(own["chance_rank"].mean())
