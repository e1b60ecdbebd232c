"""Where spots lie: lattices, and blocks with a guard band between them."""
