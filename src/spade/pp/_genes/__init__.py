"""``select_genes`` and its two steps: common genes, then the most variable of them."""
