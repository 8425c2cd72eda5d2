"""Where does a point of a target look in its source? The run, watched, and the pictures of it.

result, view = run_watched(model, request)
look = view.look(x, y)            # pixels of the target
view.figure((x, y)).save("attention.png")
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from masactrl.attention import Schedule, find_layers
from masactrl.attention.capture import capture
from masactrl.attention.view import AttentionMap, AttentionRecord, listed
from masactrl.errors import ConfigError, ScheduleError
from masactrl.pictures.overlays import SeenPoint, attention_figure
from masactrl.settings.on_demand import on_demand
from masactrl.studies.source import study_of

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from masactrl.attention import AttentionLayer
    from masactrl.models import LoadedModel
    from masactrl.pictures.figures import Figure
    from masactrl.pictures.input import Framing
    from masactrl.runs.edit_request import ResolvedEdit
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.request import ResolvedRequest
    from masactrl.studies.source import Request, Source

__all__ = ["AttentionView", "run_watched"]

_RENAMED = {"edit_watched": "run_watched", "generate_watched": "run_watched"}
__getattr__ = on_demand(__name__, {"run_watched": __name__}, renamed=_RENAMED)

BUDGET = 256 * 2**20
"""Bytes that are kept at most, unless steps are named: some 5 steps of SD 1.5, all of ours."""

OnStep = Callable[["StepRecord"], None]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AttentionView:
    """A watched run: ask it where any point of its targets looked.

    Attributes:
        views: queries and keys that were kept.
        source: the picture that was read.
        targets: the controlled pictures, in order.
        framing: how they lie on the model's grid.
    """

    views: AttentionRecord
    source: Image.Image
    targets: tuple[Image.Image, ...]
    framing: Framing

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps that can be asked for."""
        return self.views.steps

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that can be asked for."""
        return self.views.layers

    def look(
        self,
        x: float,
        y: float,
        *,
        target: int = 0,
        step: int | None = None,
        layer: int | None = None,
    ) -> AttentionMap:
        """Return where a pixel of a target looked in the source, at the layer's grid.

        The grid covers what the model saw, which may be a little more than the picture.

        Args:
            x, y: pixels of the target picture, from its upper left corner.
            target: which, 0 for the first.
            step: one of `steps`; None is the mean over all.
            layer: one of `layers`; None is the mean over all.

        Raises:
            ConfigError: the point lies outside, or there is no such target.
            ScheduleError: that step or layer was not kept.
        """
        width, height = self.framing.original
        if not (0 <= x < width and 0 <= y < height):
            raise ConfigError(
                f"The point {x:g},{y:g} lies outside of the picture; accepted are 0 to "
                f"{width - 1} across and 0 to {height - 1} down."
            )
        (w, h), (seen_w, seen_h) = self.framing.scaled, self.framing.padded
        point = (x / width * w / seen_w, y / height * h / seen_h)
        return self.views.look(point, target=target, step=step, layer=layer)

    def weights(self, look: AttentionMap) -> np.ndarray:
        """Return a look's map (height, width) of the source picture's own size and part."""
        (w, h), (seen_w, seen_h) = self.framing.scaled, self.framing.padded
        drawn = Image.fromarray(look.map.numpy().astype(np.float32))
        smooth = drawn.resize((seen_w, seen_h), Image.Resampling.BILINEAR).crop((0, 0, w, h))
        return np.asarray(smooth.resize(self.framing.original, Image.Resampling.BILINEAR))

    def figure(
        self,
        *points: tuple[float, float],
        target: int = 0,
        step: int | None = None,
        layer: int | None = None,
    ) -> Image.Image:
        """Return a row per point: the target, the source with the weights, the source lit by them.

        Args:
            points: at least one (x, y) in pixels of the target.
            target, step, layer: as in `look`, as are the errors.
        """
        return self.to_figure(*points, target=target, step=step, layer=layer).to_image()

    def to_figure(
        self,
        *points: tuple[float, float],
        target: int = 0,
        step: int | None = None,
        layer: int | None = None,
    ) -> Figure:
        """Return what `figure` draws, to be saved as PNG and SVG; arguments are the same."""
        if not points:
            raise ConfigError("There is no point to show; give at least one.")
        width, height = self.framing.original
        seen = []
        for x, y in points:
            look = self.look(x, y, target=target, step=step, layer=layer)
            share = float(look.map.sum())
            rest = "" if share > 0.995 else f"; {share:.0%} of it there, the rest in itself"
            seen.append(
                SeenPoint(
                    point=((x + 0.5) / width, (y + 0.5) / height),
                    weights=self.weights(look),
                    captions=(f"pixel {x:g}, {y:g}", f"{_said(look)}{rest}"),
                )
            )
        return attention_figure(self.source, self.targets[target], seen)


def run_watched(
    source: Source,
    request: Request,
    *,
    steps: Collection[int] | None = None,
    layers: Collection[int] | None = None,
    on_step: OnStep | None = None,
) -> tuple[Any, AttentionView]:
    """Make the pictures of a request, the same as without, and keep where targets looked.

    Returns what `generate` or `EditSession.edit` does, and the view.

    Args:
        source: the model that draws the source from its prompt, or a picture that was inverted.
        request: a `GenerateRequest` or an `EditRequest`, by MasaCtrl.
        steps: to keep, among the controlled ones; None is as many as `BUDGET` holds, evenly.
        layers: to keep, among the controlled ones; None is all.
        on_step: as in `generate`.

    Raises:
        ConfigError: the request is of another method, of no strength, or for another kind of
            source.
        ScheduleError: a step or layer is not controlled.
    """
    study = study_of(source, request)
    framing = study.framing
    with _watched(study.model, study.settings, framing.padded, steps, layers) as views:
        result = study.run(request, on_step=on_step)
    return result, AttentionView(
        views=views,
        source=study.picture or result.source,
        targets=tuple(one.controlled for one in result.targets),
        framing=framing,
    )


def _watched(
    model: LoadedModel,
    settings: ResolvedRequest | ResolvedEdit,
    size: tuple[int, int],
    steps: Collection[int] | None,
    layers: Collection[int] | None,
) -> AbstractContextManager[AttentionRecord]:
    """Return the capture of a run on pictures of that (width, height), as the model sees them."""
    method = getattr(settings, "method", "masactrl")
    if method != "masactrl":
        raise ConfigError(
            f"method={method!r} was given; only targets of masactrl look into a source, so leave "
            "the method out."
        )
    if settings.strength == 0:
        raise ConfigError("strength=0 was given, so no target looks into the source; give more.")
    controlled = Schedule(start_layer=settings.start_layer).resolve_layers(
        find_layers(model.denoiser)
    )
    acting = tuple(range(settings.start_step, settings.steps))
    for name, asked, there in (
        ("step", steps, acting),
        ("layer", layers, tuple(layer.index for layer in controlled)),
    ):
        missing = sorted(set(asked or ()) - set(there))
        if missing or (asked is not None and not asked):  # before minutes are spent
            what = f"{name} {missing[0]}" if missing else f"no {name}"
            raise ScheduleError(
                f"{what} was asked for; targets look into the source at {name}s {listed(there)} "
                "of this run."
            )
    kept = [layer for layer in controlled if layers is None or layer.index in layers]
    count = len(settings.target_prompts)
    if steps is None:
        factor = model.pipeline.vae_scale_factor
        latent = size[1] // factor, size[0] // factor
        # Queries of every target and keys of the source; in the union form the targets' as well.
        each = (2 * count + 1) * model.denoiser.dtype.itemsize * _values(kept, latent)
        steps = _evenly(acting, max(1, BUDGET // each))
    own = settings.form == "union"
    return capture(model.pipeline, steps=steps, layers=layers, targets=count, own=own)


def _values(layers: Sequence[AttentionLayer], latent: tuple[int, int]) -> int:
    """How many numbers the queries of one picture are, for latents of that (height, width)."""
    grids = [(layer.grid(*latent), layer.module.inner_dim) for layer in layers]
    return sum(rows * columns * width for (rows, columns), width in grids)


def _evenly(numbers: Sequence[int], count: int) -> tuple[int, ...]:
    """At most `count` of the numbers, evenly, the first and the last among them."""
    last = len(numbers) - 1
    if count > last:
        return tuple(numbers)
    if count == 1:
        return (numbers[(last + 1) // 2],)
    return tuple(numbers[round(last * k / (count - 1))] for k in range(count))


def _said(look: AttentionMap) -> str:
    """The steps and layers of a look in words."""
    parts = []
    for name, numbers in (("layer", look.layers), ("step", look.steps)):
        plural = "s" if len(numbers) > 1 else ""
        parts.append(f"{name}{plural} {listed(numbers)}")
    return ", ".join(parts)
