"""Data to try things on: a synthetic cohort that needs no network."""

from __future__ import annotations

from spade.datasets._toy import toy

__all__ = ["toy"]
