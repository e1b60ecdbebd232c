"""Slides as bags of patches: pooling heads, their training, and survival models."""
