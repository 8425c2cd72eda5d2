"""What may be asked of an inversion, checked at the door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, get_args

from masactrl.errors import ConfigError
from masactrl.settings.checks import settle
from masactrl.settings.declare import Setting, check
from masactrl.settings.old_names import formerly
from masactrl.settings.prompt_weights import parse
from masactrl.settings.shared import HIGHEST_SEED, INVERSION, Fit, InversionName, RunSettings

if TYPE_CHECKING:
    from masactrl.inversion import Inversion
    from masactrl.models import ModelPreset

__all__ = ["InversionRequest", "draws_noise"]

_OPTIONS = {
    "iterations": ("fixed-point", "null-text"),
    "fresh_steps": ("ddim", "direct"),
    "noise_shift": ("edit-friendly",),
    "seed": ("edit-friendly", "virtual"),
}
"""Which methods know what; nothing that is given is ignored."""


@formerly(source_prompt="prompt")
@dataclass(frozen=True, slots=True, kw_only=True)
class InversionRequest(RunSettings):
    """How a picture becomes a trajectory; what is None is left to the method or the model.

    Its steps are those of every edit, too.

    Attributes beside those of `RunSettings`:
        source_prompt: what the picture shows; empty (the paper's choice) for nothing.
        method: a name of `masactrl.inversion.INVERSIONS`.
        guidance_scale: of the source, at least 1. None is 1 (no guidance), or for null-text the
            model's own. Inert where both branches are the same, as with a null prompt.
        replay: whether the source is put back on its trajectory at every step while editing.
        seed: of edit-friendly and virtual inversion and of fresh steps, 0 to 2**63 - 1.
        iterations: rounds per step of fixed-point, inner steps of null-text inversion.
        fresh_steps: how many of the cleanest levels ddim and direct inversion reach by adding
            noise; see `masactrl.inversion.ddim`.
        noise_shift: timesteps by which edit-friendly inversion with few steps tells the network a
            noisier level than the latents have; see `masactrl.inversion.edit_friendly`.
        fit: what happens to a picture that is not of the model's size; see
            `masactrl.pictures.input`.

    Raises:
        PromptError: a weight in the prompt is none.
        ConfigError: a value is out of its range, or the method has no use for it.
    """

    source_prompt: Annotated[
        str,
        Setting(help="What the picture shows; may be empty.", flag="from", metavar="PROMPT"),
    ] = ""
    method: Annotated[
        str,
        Setting(
            help="How the picture is traced back to noise.",
            flag="inversion",
            choices=get_args(InversionName),
            always=True,
        ),
    ] = "direct"
    guidance_scale: Annotated[
        float | None,
        Setting(
            help="Guidance scale of the source, 1 and more; 1 switches guidance off.",
            flag="source-cfg",
            low=1,
            accepted="1 (no guidance) and more",
            usual="1; null-text: the model's",
            panel=INVERSION,
        ),
    ] = None
    replay: Annotated[
        bool | None,
        Setting(
            help="Put the source back on its way at every step.",
            switch="replay/no-replay",
            usual="the inversion's",
            panel=INVERSION,
        ),
    ] = None
    seed: Annotated[
        int | None,
        Setting(
            help="Of what edit-friendly, virtual, --fresh-steps, --fresh-noise and the methods "
            "sdedit, blended-latent and imagic draw; 0 to 2**63 - 1.",
            low=0,
            high=HIGHEST_SEED,
            usual="0",
            panel=INVERSION,
        ),
    ] = None
    iterations: Annotated[
        int | None,
        Setting(
            help="Rounds per step of fixed-point, inner steps of null-text; 1 and more.",
            usual="5; null-text: 10",
            panel=INVERSION,
        ),
    ] = None
    fresh_steps: Annotated[
        int | None,
        Setting(
            help="How many of the cleanest noise levels direct and ddim reach by adding noise, 0 "
            "to steps.",
            usual="0",
            panel=INVERSION,
        ),
    ] = None
    noise_shift: Annotated[
        int | None,
        Setting(
            help="Of edit-friendly with few steps: timesteps by which the network is told a "
            "noisier level than the latents have, 0 to 998; TurboEdit's is 200 for 4 steps.",
            low=0,
            high=998,
            usual="0",
            panel=INVERSION,
        ),
    ] = None
    fit: Annotated[
        Fit,
        Setting(
            help="Scale a picture that has less than half or more than twice the model's pixels "
            "(auto), or never (keep)."
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        settle(self)
        parse(self.source_prompt)  # refuses what is no weight
        check(self)
        for name, methods in _OPTIONS.items():
            if getattr(self, name) is None or self.method in methods:
                continue
            if name == "seed" and draws_noise(self.method, self.fresh_steps):
                continue
            also = ", to fresh steps and to fresh noise" if name == "seed" else ""
            raise ConfigError(
                f"{name} belongs to {' and '.join(methods)} inversion{also}; {self.method} has no "
                "use for it."
            )
        if self.replay is False and self.method == "virtual":
            raise ConfigError("Virtual inversion has no source without replay; leave it on.")
        self.build()

    def build(self) -> Inversion:
        """Return the method with its options."""
        from masactrl.inversion import INVERSIONS

        given = {name: getattr(self, name) for name in _OPTIONS if name != "seed"}
        options = {name: value for name, value in given.items() if value is not None}
        return INVERSIONS[self.method](**options)

    @property
    def one_branch(self) -> bool:
        """Whether the source has the same words in both guidance branches."""
        same = not self.source_prompt or self.method == "negative-prompt"
        return same and self.method != "null-text"

    def guidance(self, preset: ModelPreset) -> float:
        """Return the guidance of the source."""
        if self.guidance_scale is not None:
            return float(self.guidance_scale)
        return preset.guidance_scale if self.method == "null-text" else 1.0


def draws_noise(method: str, fresh_steps: int | None = None) -> bool:
    """Whether an inversion draws noise, and so has a seed."""
    return method in _OPTIONS["seed"] or bool(fresh_steps)
