"""Slides: their image and its colours, and what was written about those without spots."""
