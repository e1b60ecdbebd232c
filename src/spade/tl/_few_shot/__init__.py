"""Verbs that learn from a few labelled spots; probes and scores that slides and the switchboard share."""
