"""``select_genes`` and its two steps."""
