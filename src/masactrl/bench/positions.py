"""Which layers of a model depend on position: a table and a figure to choose layers by."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from masactrl.attention.calibration import PositionDependence, position_dependence
from masactrl.attention.schedule import FLUX_LAYERS
from masactrl.errors import MissingExtra
from masactrl.pictures.files import written_whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["PositionReport", "draw_positions", "measure_positions"]

_COLOURS = {"joint": "#4477aa", "single": "#cc9944"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionReport:
    """What was measured, with which prompts, and the layers that would be chosen."""

    prompts: tuple[str, ...]
    steps: int
    found: PositionDependence
    chosen: tuple[int, ...]

    def table(self) -> str:
        """Markdown: every layer with its place, its score and whether it is among the chosen."""
        lines = ["| layer | place | score | chosen |", "|---|---|---|---|"]
        for layer, score in enumerate(self.found.layers):
            mark = "yes" if layer in self.chosen else ""
            lines.append(f"| {layer} | {self.found.places[layer]} | {score:.3f} | {mark} |")
        return "\n".join(lines)

    def save(self, folder: Path) -> tuple[Path, ...]:
        """Write `positions.json`, `positions.png` and `positions.svg`; the paths.

        Raises:
            MissingExtra: matplotlib is not installed.
            OutputError: they cannot be written.
        """
        path = folder / "positions.json"
        kept = {
            "prompts": self.prompts,
            "steps": self.steps,
            "layers": self.found.layers,
            "chosen": self.chosen,
            **asdict(self.found),
        }
        drawn = draw_positions(self, folder / "positions")
        with written_whole(path) as beside:
            beside.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        return (path, *drawn)


def measure_positions(
    pipeline: Any,
    prompts: Sequence[str],
    *,
    steps: int = 8,
    count: int = len(FLUX_LAYERS),
    height: int | None = None,
    width: int | None = None,
    seed: int = 0,
    **options: Any,
) -> PositionReport:
    """Make one picture of every prompt and measure on the way; no picture is decoded.

    `options` go to the pipeline, such as `guidance_scale`; sizes are in pixels (None: the
    pipeline's own).

    Raises:
        UnsupportedPipeline: the network has no rotary embeddings.
        ConfigError: there are fewer layers than `count`.
    """
    import torch

    generators = [torch.Generator("cpu").manual_seed(seed + k) for k in range(len(prompts))]

    def make() -> None:
        with torch.no_grad():
            pipeline(
                list(prompts),
                height=height,
                width=width,
                num_inference_steps=steps,
                generator=generators,
                output_type="latent",
                **options,
            )

    found = position_dependence(pipeline, make)
    return PositionReport(
        prompts=tuple(prompts), steps=steps, found=found, chosen=found.least(count)
    )


def draw_positions(report: PositionReport, path: Path) -> tuple[Path, ...]:
    """A bar for every layer, the chosen ones marked, and beneath it layer by step.

    Args:
        report: what was measured.
        path: without ending; `.png` and `.svg` are written.

    Returns:
        both paths.

    Raises:
        MissingExtra: matplotlib is not installed.
        OutputError: they cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtra("the figure of positions", "bench") from error
    found = report.found
    figure = Figure(figsize=(11, 5.5), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    bars, steps = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    layers = range(len(found.layers))
    for place in dict.fromkeys(found.places):
        own = [layer for layer in layers if found.places[layer] == place]
        bars.bar(own, [found.layers[k] for k in own], color=_COLOURS[place], label=place)
    heights = [found.layers[layer] for layer in report.chosen]
    bars.plot(report.chosen, heights, "v", color="#222222", label="depends least")
    bars.set_ylabel("score: hangs on position")
    bars.set_title("What each block adds, and how much of it changes without positions")
    bars.set_ylim(0, 1.25 * max(found.layers))
    bars.legend(loc="upper right", ncols=3, fontsize="small")
    shown = steps.imshow(found.scores, aspect="auto", cmap="viridis", interpolation="nearest")
    steps.set_xlabel("layer, in the order in which they run")
    steps.set_ylabel("step")
    figure.colorbar(shown, ax=steps, label="score")
    paths = (path.with_suffix(".png"), path.with_suffix(".svg"))
    for one in paths:
        # No date inside: the same figures are the same file.
        kept = {"Date": None} if one.suffix == ".svg" else {}
        with written_whole(one) as beside:
            figure.savefig(beside, format=one.suffix[1:], metadata=kept)
    return paths
