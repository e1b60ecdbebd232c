"""Trained models: weights, gene panel and routing."""

from spade.models._config import SealConfig, SpadeConfig
from spade.models._genes import GenePanel
from spade.models._published import read_published_spade
from spade.models._published_seal import read_published_seal
from spade.models._seal import SealModel
from spade.models._spade import SpadeModel

__all__ = [
    "GenePanel",
    "SealConfig",
    "SealModel",
    "SpadeConfig",
    "SpadeModel",
    "read_published_seal",
    "read_published_spade",
]
