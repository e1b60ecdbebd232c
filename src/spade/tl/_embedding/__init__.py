"""Verbs that use the joint space: embed, search, and how groups mix."""
