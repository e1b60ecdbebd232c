"""Verbs that learn from a few labelled spots; their probes and scores also serve slides and the switchboard."""
