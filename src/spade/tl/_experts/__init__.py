"""Verbs that say what experts stand for."""
