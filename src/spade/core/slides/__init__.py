"""Slides as bags of patches: attention heads, their training, and survival models."""
