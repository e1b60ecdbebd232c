"""Example data: a synthetic cohort that needs no download."""

from __future__ import annotations

from spade.datasets._toy import toy

__all__ = ["toy"]
