"""Tissue and tiles of slides without spots."""
