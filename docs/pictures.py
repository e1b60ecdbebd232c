"""Draw the picture of the README: ``python docs/pictures.py``, which downloads 2.6 MB once."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image

import spade as sp

TARGET = Path(__file__).parent / "_static" / "olfactory_bulb.png"

(bulb,) = sp.datasets.mob()
sp.pp.patches(bulb)
sp.pp.encode_patches(bulb, "texture")
genes = sp.pp.select_genes(bulb, n_top_genes=1000)
model = sp.tl.train_spade(bulb, use_rep="X_texture", genes=genes, n_prototypes=8, n_experts=3)
sp.tl.embed(bulb, model)
print(sp.tl.expert_agreement(bulb, label_key="label").round(2).T)

fig, axes = plt.subplots(1, 2, figsize=(9.6, 2.9), layout="constrained")
titles = {"label": "Layers, labelled by hand", None: "Experts, without labels"}
for ax, (color, title) in zip(axes, titles.items(), strict=True):
    sp.pl.expert_clusters(bulb, color=color, entropy=False, ax=ax)
    ax.set_title(title, loc="left")
fig.savefig(TARGET, dpi=125)
Image.open(TARGET).convert("RGB").quantize(256).save(TARGET, optimize=True)
