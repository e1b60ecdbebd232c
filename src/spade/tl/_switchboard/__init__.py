"""Ablation of the loss terms: variants, folds and scores."""
