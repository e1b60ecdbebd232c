"""Spot-like squares with counts, from transcripts, cells or smaller bins."""
