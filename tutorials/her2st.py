"""Human HER2+ breast cancer (classic ST, 0.69 µm/px): two patients, one model."""

import matplotlib.pyplot as plt

import spade as sp

samples = sp.datasets.her2st(("B4", "C2"))  # 9.3 MB, once
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
