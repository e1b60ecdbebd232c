"""Sections whose every number is known, and short trainings, for many tests."""
