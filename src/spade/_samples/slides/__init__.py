"""Slides without spots: their image, and what was written about them."""
