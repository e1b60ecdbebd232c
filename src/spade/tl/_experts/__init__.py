"""Verbs that describe experts: agreement, composition, marker genes, certainty."""
