"""Verbs that make a model, and what they read."""
