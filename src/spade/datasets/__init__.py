"""Example data: a synthetic cohort that needs no download, and samples of HEST-1k."""

from __future__ import annotations

from spade.datasets._hest import hest
from spade.datasets._toy import toy

__all__ = ["hest", "toy"]
