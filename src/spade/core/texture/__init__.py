"""Compiled image statistics for the built-in texture encoder."""
