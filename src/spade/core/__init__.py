"""Computation on arrays alone: clustering, training, patch reading and evaluation, on numpy, scipy, torch and numba."""
