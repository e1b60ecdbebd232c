"""Positions of spots: lattices, and blocks with a guard band between them."""
