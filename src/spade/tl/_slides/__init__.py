"""Verbs on whole slides: classes, attention, survival."""
