"""Mouse olfactory bulb (classic ST, 2.75 µm/px): from one section to joint embeddings and pictures."""

import matplotlib.pyplot as plt

import spade as sp

(sdata,) = sp.datasets.mob()  # 2.6 MB, once
sp.pp.patches(sdata)
sp.pp.encode_patches(sdata, "texture")
sp.pp.split(sdata, block_um=1000, fractions=(0.7, 0, 0.3))
genes = sp.pp.select_genes(sdata, n_top_genes=1000, split_key="spade_split")
model = sp.tl.train_spade(sdata, use_rep="X_texture", genes=genes, split_key="spade_split", n_experts=2)
sp.tl.embed(sdata, model)
print(sp.tl.retrieval_metrics(sdata, model, split_key="spade_split"))
for plot in (sp.pl.patches, sp.pl.expert_clusters, sp.pl.expert_gallery, sp.pl.embedding, sp.pl.training):
    plot(model if plot is sp.pl.training else sdata)
    plt.savefig(f"mob_{plot.__name__}.png", dpi=150)
