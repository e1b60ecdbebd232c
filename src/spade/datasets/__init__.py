"""Example data: a synthetic cohort that needs no download, published sections, and samples of HEST-1k."""

from __future__ import annotations

from spade.datasets._her2st import her2st
from spade.datasets._hest import hest
from spade.datasets._mob import mob
from spade.datasets._toy import toy

__all__ = ["her2st", "hest", "mob", "toy"]
