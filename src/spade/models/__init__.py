"""Trained models: weights, gene panel and routing."""

from spade.models._config import ProgramConfig, SealConfig, SpadeConfig
from spade.models._genes import GenePanel
from spade.models._programs import ProgramModel
from spade.models._published import read_published_spade
from spade.models._published_seal import read_published_seal
from spade.models._seal import SealModel
from spade.models._spade import SpadeModel

__all__ = [
    "GenePanel",
    "ProgramConfig",
    "ProgramModel",
    "SealConfig",
    "SealModel",
    "SpadeConfig",
    "SpadeModel",
    "read_published_seal",
    "read_published_spade",
]
