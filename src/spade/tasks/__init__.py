"""Slide tasks of the papers as data: slides, labels, protocol and published figures, each with its source."""

from spade.tasks._get import get
from spade.tasks._list import list
from spade.tasks._records import Data, Figure, LabelRule, Protocol, Source
from spade.tasks._task import Task

__all__ = ["Data", "Figure", "LabelRule", "Protocol", "Source", "Task", "get", "list"]
