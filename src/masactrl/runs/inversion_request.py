"""What may be asked of an inversion, checked at the door."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from masactrl.errors import ConfigError
from masactrl.inversion import INVERSIONS, Inversion
from masactrl.pictures.input import Fit
from masactrl.settings.checks import settle
from masactrl.settings.prompt_weights import parse

if TYPE_CHECKING:
    from masactrl.models import ModelPreset

__all__ = ["InversionRequest", "check_guidance", "draws_noise"]

_OPTIONS = {
    "iterations": ("fixed-point", "null-text"),
    "fresh_steps": ("ddim", "direct"),
    "seed": ("edit-friendly", "virtual"),
}
"""Which methods know what; nothing that is given is ignored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InversionRequest:
    """How a picture becomes a trajectory; what is None is left to the method or the model.

    Attributes:
        prompt: what the picture shows; empty (the paper's choice) for nothing.
        method: a name of `masactrl.inversion.INVERSIONS`.
        steps: of the inversion and of every edit, 1 to 1000.
        guidance_scale: of the source, at least 1. None is 1 (no guidance), or for null-text the
            model's own. Inert where both branches are the same, as with a null prompt.
        replay: whether the source is put back on its trajectory at every step while editing.
        seed: of edit-friendly and virtual inversion and of fresh steps, 0 to 2**63 - 1.
        iterations: rounds per step of fixed-point, inner steps of null-text inversion.
        fresh_steps: how many of the cleanest levels ddim and direct inversion reach by adding
            noise; see `masactrl.inversion.ddim`.
        fit: what happens to a picture that is not of the model's size; see
            `masactrl.pictures.input`.

    Raises:
        PromptError: a weight in the prompt is none.
        ConfigError: a value is out of its range, or the method has no use for it.
    """

    prompt: str = ""
    method: str = "direct"
    steps: int | None = None
    guidance_scale: float | None = None
    replay: bool | None = None
    seed: int | None = None
    iterations: int | None = None
    fresh_steps: int | None = None
    fit: Fit = "auto"

    def __post_init__(self) -> None:
        settle(self)
        parse(self.prompt)  # refuses what is no weight
        if self.method not in INVERSIONS:
            raise ConfigError(
                f"The inversion {self.method!r} is not known; accepted are {', '.join(INVERSIONS)}."
            )
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ConfigError(f"steps={self.steps} was given; accepted is 1 to 1000.")
        check_guidance(self.guidance_scale)
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed={self.seed} was given; accepted is 0 to 2**63 - 1.")
        for name, methods in _OPTIONS.items():
            if getattr(self, name) is None or self.method in methods:
                continue
            if name == "seed" and draws_noise(self.method, self.fresh_steps):
                continue
            raise ConfigError(
                f"{name} belongs to {' and '.join(methods)} inversion; {self.method} has no use "
                "for it."
            )
        if self.replay is False and self.method == "virtual":
            raise ConfigError("Virtual inversion has no source without replay; leave it on.")
        self.build()
        if self.fit not in get_args(Fit):
            raise ConfigError(
                f"fit={self.fit!r} was given; accepted are {', '.join(get_args(Fit))}."
            )

    def build(self) -> Inversion:
        """Return the method with its options."""
        given = {"iterations": self.iterations, "fresh_steps": self.fresh_steps}
        options = {name: value for name, value in given.items() if value is not None}
        return INVERSIONS[self.method](**options)

    @property
    def one_branch(self) -> bool:
        """Whether the source has the same words in both guidance branches."""
        same = not self.prompt or self.method == "negative-prompt"
        return same and self.method != "null-text"

    def guidance(self, preset: ModelPreset) -> float:
        """Return the guidance of the source."""
        if self.guidance_scale is not None:
            return float(self.guidance_scale)
        return preset.guidance_scale if self.method == "null-text" else 1.0


def draws_noise(method: str, fresh_steps: int | None = None) -> bool:
    """Whether an inversion draws noise, and so has a seed."""
    return method in _OPTIONS["seed"] or bool(fresh_steps)


def check_guidance(scale: float | None) -> None:
    """Refuse a weight of guidance below 1; None passes."""
    if scale is not None and not (math.isfinite(scale) and scale >= 1):
        raise ConfigError(
            f"guidance_scale={scale} was given; accepted is 1 (no guidance) and more."
        )
