"""What PuppetBench compares, and how much of it is run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from masactrl.attention import Schedule
from masactrl.errors import ConfigError
from masactrl.inversion import INVERSIONS
from masactrl.methods import method_named
from masactrl.runs.edit_request import EditRequest
from masactrl.settings.checks import settle
from masactrl.settings.shared import FROM_SOURCE, parse_options

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.methods import Method
    from masactrl.models import LoadedModel
    from masactrl.runs.layout import Layout

__all__ = ["BASELINES", "RIGHT", "Column", "PuppetSettings", "picture_path"]

BASELINES = ("nothing", "prompt-only", "fixed-seed")
"""Columns that are always there."""

RIGHT = "right answer"
"""The exact target through the VAE, where the source is rendered: what no edit can exceed."""

_MASACTRLS = ("start_step", "start_layer", "form", "strength")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One row of the table: a method with its options, under a label.

    Attributes:
        method, options: of `method_named`.
        layout: whether it gets the layouts of tasks that have one; without it runs these alone.
        fresh_noise: of edits of pictures, see `EditRequest`.
    """

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)
    layout: bool = True
    fresh_noise: float = 0.0

    @classmethod
    def written(cls, word: str) -> Column:
        """Return a column written NAME[:OPTION=VALUE,...]; layout and fresh_noise are its own.

        Raises:
            ConfigError: it is not written so.
        """
        name, _, rest = word.partition(":")
        options = parse_options(rest.split(",") if rest else ())
        led = options.pop("layout", True)
        if led not in (True, False, "yes", "no"):
            raise ConfigError(f"layout={led} was given to {name}; accepted are yes and no.")
        fresh = options.pop("fresh_noise", 0.0)
        if not isinstance(fresh, (int, float)):
            raise ConfigError(f"fresh_noise={fresh} was given to {name}; accepted is 0 to 1.")
        return cls(
            method=name, options=options, layout=led in (True, "yes"), fresh_noise=float(fresh)
        )

    @property
    def label(self) -> str:
        """The method's name, with its options where there are any."""
        said = {**self.options, **({"fresh_noise": self.fresh_noise} if self.fresh_noise else {})}
        named = ", ".join(f"{name}={value}" for name, value in sorted(said.items()))
        own = f"{self.method} ({named})" if named else self.method
        return own if self.layout else f"{own}, no layout"

    def build(self, model: LoadedModel, steps: int) -> Method:
        """The method; MasaCtrl takes its start from the model's preset where none is given.

        Raises:
            ConfigError: there is no such method, or it has no such option.
        """
        if self.method != "masactrl":
            return method_named(self.method, **dict(self.options))
        options = dict(self.options)
        preset = model.preset
        usual = preset.start_step_of(steps)
        schedule = Schedule(
            start_step=int(options.pop("start_step", usual)),
            start_layer=int(options.pop("start_layer", preset.start_layer)),
        )
        return method_named("masactrl", schedule=schedule, **options)

    def request(
        self, prompt: str, *, guidance: float, seed: int, layouts: tuple[Layout, ...] = ()
    ) -> EditRequest:
        """The same as an edit of a picture.

        Raises:
            ConfigError: an edit has no such option.
        """
        return EditRequest(
            target_prompts=(prompt,),
            guidance_scale=guidance,
            compare=False,
            method=self.method,
            layouts=layouts if self.layout else (),
            fresh_noise=self.fresh_noise,
            seed=seed if self.draws() else None,
            **self._own(),
        )

    def _own(self) -> dict[str, Any]:
        if self.method != "masactrl":
            return {"method_options": dict(self.options)}
        for name in self.options:
            if name not in _MASACTRLS:
                raise ConfigError(
                    f"masactrl has no option {name!r} on pictures; accepted are "
                    f"{', '.join(_MASACTRLS)}."
                )
        return dict(self.options)

    def draws(self) -> bool:
        """Whether an edit of a picture depends on a seed of its own."""
        return self.method in FROM_SOURCE or self.fresh_noise > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PuppetSettings:
    """How the tasks are run.

    Attributes:
        columns: what is compared, beside `BASELINES`.
        steps: denoising steps, 1 to 1000.
        guidance: guidance scale; None is the model's.
        seeds: start noises per task, 1 to 16. A rendered source has its noise from the inversion:
            there only what draws noise is run with more than one.
        batch: tasks in one batch, at least 1.
        pictures: of how many tasks pictures are kept, 0 and more.
        inversion: of rendered sources, a name of `masactrl.inversion.INVERSIONS`.
        layout_model: what reads the skeletons of layout tasks, see `Layout`; None is the embedded
            model's own.
    """

    columns: tuple[Column, ...]
    steps: int = 20
    guidance: float | None = None
    seeds: int = 4
    batch: int = 8
    pictures: int = 12
    inversion: str = "direct"
    layout_model: str | None = None

    def __post_init__(self) -> None:
        settle(self)
        for name, least, most in (
            ("steps", 1, 1000),
            ("seeds", 1, 16),
            ("batch", 1, 1024),
            ("pictures", 0, 1000),
        ):
            if not least <= getattr(self, name) <= most:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is {least} to {most}."
                )
        if self.inversion not in INVERSIONS:
            raise ConfigError(
                f"inversion={self.inversion!r} was given; accepted are {', '.join(INVERSIONS)}."
            )
        labels = [column.label for column in self.columns]
        if len({*labels, *BASELINES, RIGHT}) != len(labels) + len(BASELINES) + 1:
            raise ConfigError(
                "A column is there twice; nothing, prompt-only and fixed-seed always are."
            )


def picture_path(folder: Path, task: str, seed: int, label: str) -> Path:
    """Where the picture of an item is kept, where it is."""
    safe = "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in label)
    return folder / "pictures" / f"{task}-{seed}-{safe}.png"
