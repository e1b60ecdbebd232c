"""Risks of patients from their slides: survival across folds, its summary, and groups of risk."""
