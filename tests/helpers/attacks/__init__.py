"""Helpers of tests/attacks."""
