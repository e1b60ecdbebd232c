"""Human HER2+ breast cancer (classic ST, 0.69 µm/px): two patients, one model."""

import os
from pathlib import Path

import matplotlib.pyplot as plt

import spade as sp

data, samples = Path(os.environ["SPADE_TEST_DATA"]) / "her2st", []
for name, image in (("B4", "BT10737_D2_HE.jpg"), ("C2", "5714_HE_BT_C2.jpg")):
    files = data / name / f"{name}.tsv.gz", data / name / image, data / name / f"{name}_selection.tsv"
    labels = data / "derived_labels" / f"{name}_transferred_labels.tsv"
    samples.append(sp.io.read_st(*files, labels=labels, sample_id=name))
sp.pp.patches(samples)
sp.pp.encode_patches(samples, "texture")
sp.pp.split(samples, block_um=1000, fractions=(0.7, 0, 0.3))
genes = sp.pp.select_genes(samples, n_top_genes=1000, split_key="spade_split")
model = sp.tl.train_spade(samples, use_rep="X_texture", genes=genes, split_key="spade_split", n_experts=4)
sp.tl.embed(samples, model)
print(sp.tl.retrieval_metrics(samples, model, split_key="spade_split"))
for plot in (sp.pl.patches, sp.pl.expert_clusters, sp.pl.expert_gallery, sp.pl.embedding, sp.pl.training):
    plot(model if plot is sp.pl.training else samples)
    plt.savefig(f"her2st_{plot.__name__}.png", dpi=150)
