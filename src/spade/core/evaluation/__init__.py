"""Evaluation: draws, folds, metrics, intervals, retrieval, mixing and composition."""
