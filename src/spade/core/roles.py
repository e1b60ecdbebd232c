"""Roles of rows in training."""

from __future__ import annotations

NOT_USED, TRAIN, VAL = -1, 0, 1
