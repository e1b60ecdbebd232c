"""Verbs that predict expression and measure the prediction."""
