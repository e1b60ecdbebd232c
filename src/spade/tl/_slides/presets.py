"""Published settings of slide heads, by name."""

from __future__ import annotations

from dataclasses import fields
from typing import Any, TypeVar

from spade.core.checks import brief, check_choice
from spade.tl._slides.task.settings import HeadConfig, SlideConfig
from spade.tl._slides.task.targets import AUTO, CLASSES, CONTINUOUS, TARGETS

Config = TypeVar("Config", bound=HeadConfig)
#: ``"paper"`` is what the authors of SPADE state of their heads; what they do not state keeps its default.
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "hidden": (512, 512, 384), "lr": 1e-5, "schedule": "cosine", "scaling": "none", "class_weights": False,
        "C": "paper",
    },
}  # fmt: skip


def settings_with(cls: type[Config], preset: str | None, may_be_preset: dict[str, Any], **given: Any) -> Config:
    """Return settings; those that may be of a preset are given unless None, else of the preset, else the defaults."""
    names = {field.name for field in fields(cls)}
    stated = {} if preset is None else PRESETS[check_choice("preset", preset, tuple(PRESETS))]
    chosen = {name: value for name, value in stated.items() if name in names}
    chosen |= {name: value for name, value in may_be_preset.items() if value is not None}
    return cls(**chosen, **given)


def slide_settings(target: object, preset: str | None, may_be_preset: dict[str, Any], **given: Any) -> SlideConfig:
    """Return the settings of heads that learn a target; without a name for it, those of classes."""
    kind = check_choice("target", target, TARGETS)
    if kind == CONTINUOUS and preset is not None:
        raise ValueError(
            f"preset={brief(preset)}: presets are of heads that learn classes or grades, not target={kind!r}; leave "
            "preset= out."
        )
    return settings_with(SlideConfig, preset, may_be_preset, target=CLASSES if kind == AUTO else kind, **given)
