"""Readers for sections and labels that other packages do not read, and writing that survives an interruption."""

from __future__ import annotations

from spade.io._annotations import read_annotations
from spade.io._hest import read_hest
from spade.io._st import read_st
from spade.io._store import write

__all__ = ["read_annotations", "read_hest", "read_st", "write"]
