"""The paper's ablations as figures: when, where and between what the control acts.

    start-step     S from the first step to beyond the middle of the run; L as usual
    start-layer    L from the first layer on; S as usual
    places         encoder, middle, decoder, all of them; S as usual
    masks          without masks, and with masks from words (Eq. 6 to 8); S and L as usual

    figures = ablate(session, EditRequest(target_prompts=("a running corgi",)))
    figures.save(Path("out"))       # ablation-start-step.png, .svg, ablation-start-layer.png, ...

Every picture is made from the same source and the same noise.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from masactrl.attention import Schedule, WordMasks, find_layers
from masactrl.errors import ConfigError, ControlWarning
from masactrl.methods import MasaCtrl
from masactrl.pictures.figures import Figure
from masactrl.pictures.images import Tile
from masactrl.runs.edit_request import EditMasks, EditRequest
from masactrl.runs.result import prepare_folder
from masactrl.settings.on_demand import on_demand
from masactrl.settings.prompt_weights import without_weights
from masactrl.studies.source import study_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from PIL import Image

    from masactrl.attention import Place
    from masactrl.models import LoadedModel
    from masactrl.runs.generate import StepRecord
    from masactrl.studies.source import Request, Source

__all__ = ["Ablation", "AblationResult", "ablate", "figure_names"]

_FIGURE = "ablation-{}"  # name of the figure of a row, without ending
_PARTS = (0.0, 0.08, 0.2, 0.4, 0.6)  # of the run, where S is tried
_PLACES: tuple[tuple[str, tuple[Place, ...] | None], ...] = (
    ("encoder", ("encoder",)),
    ("middle", ("mid",)),
    ("decoder", ("decoder",)),
    ("all layers", None),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ablation:
    """One row of the ablation.

    Attributes:
        name: start-step, start-layer, places or masks.
        cells: what was varied, in words, and the picture of the target.
    """

    name: str
    cells: tuple[tuple[str, Image.Image], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AblationResult:
    """All rows for one source and one target.

    Attributes:
        source: the source, of a photograph its reconstruction.
        uncontrolled: the target without control.
        source_prompt: of the source; empty for none.
        target_prompt: of the target.
        rows: the ablations.
    """

    source: Image.Image
    uncontrolled: Image.Image
    source_prompt: str
    target_prompt: str
    rows: tuple[Ablation, ...]

    def to_figure(self, row: Ablation) -> Figure:
        """Return one of the rows: source, without control, then what was varied."""
        head = (
            Tile(image=self.source, caption=self.source_prompt or "source"),
            Tile(image=self.uncontrolled, caption=self.target_prompt),
        )
        cells = tuple(Tile(image=picture, caption=said) for said, picture in row.cells)
        return Figure(rows=((*head, *cells),), headers=("source", "no control", row.name))

    def save(self, folder: Path, *, overwrite: bool = False) -> tuple[Path, ...]:
        """Write a figure for each row, as PNG and as SVG; return their paths.

        Args:
            folder: where to; made if it does not exist.
            overwrite: whether files of these names may be replaced.

        Raises:
            OutputError: they cannot be written, or would replace a file.
        """
        names = {_FIGURE.format(row.name): row for row in self.rows}
        prepare_folder(folder, names, overwrite=overwrite)
        paths: list[Path] = []
        for name, row in names.items():
            paths += self.to_figure(row).save(folder / name)
        return tuple(paths)


def figure_names(*, masks: bool) -> tuple[str, ...]:
    """Return the names of the figures that `AblationResult.save` writes, without ending."""
    rows = ("start-step", "start-layer", "places", *(("masks",) if masks else ()))
    return tuple(map(_FIGURE.format, rows))


class _Make(Protocol):
    """Makes the target with a control; `words` asks for masks from words."""

    def __call__(self, control: MasaCtrl, *, words: bool = False) -> Image.Image: ...


def ablate(
    source: Source,
    request: Request,
    *,
    words: tuple[str | None, str] | None = None,
    on_step: Callable[[StepRecord], None] | None = None,
) -> AblationResult:
    """Make the target of a source in every way of the head of this file.

    Args:
        source: the model that draws the source from its prompt, or a picture that was inverted.
        request: a `GenerateRequest` or an `EditRequest`, with one target and without masks; its S
            and L are those that are not varied.
        words: the subject, a word of the source prompt (None for a picture that was inverted
            without one, whose first tokens act as its object) and one of the target prompt; None
            leaves the row of masks out.
        on_step: called after every denoising step of all runs.

    Raises:
        ConfigError: not one target, masks in the request, another method than masactrl, or a
            request for another kind of source.
        MasaCtrlError: what `generate` and `EditSession.edit` raise.
    """
    study, named = study_of(source, request), words
    if len(request.target_prompts) != 1:
        raise ConfigError(
            f"An ablation has one target prompt and {len(request.target_prompts)} were given."
        )
    if request.method != "masactrl":
        raise ConfigError(
            f"S, L, places and masks belong to the method masactrl, not to {request.method}."
        )
    if isinstance(request, EditRequest) and request.masks is not None:
        raise ConfigError("An ablation puts masks in and out by itself; name them by words=.")
    settings = study.settings
    # An edit's first recording serves all others: it begins at the first step and layer.
    if isinstance(request, EditRequest):
        first: Request = replace(request, start_step=0, start_layer=0, compare=True)
        request = replace(request, compare=False)
    else:
        first = replace(request, strength=0.0)
    plain = study.run(first, on_step=on_step)

    def make(control: MasaCtrl, *, words: bool = False) -> Image.Image:
        own = replace(control, form=settings.form, strength=settings.strength)
        asked = request
        if words and named is not None:
            asked, own = _masked(asked, own, named)
        made: Image.Image = study.run(asked, method=own, on_step=on_step).targets[0].controlled
        return made

    target = plain.targets[0]
    return AblationResult(
        source=plain.source,
        uncontrolled=target.uncontrolled or target.controlled,
        source_prompt=study.prompt,
        target_prompt=request.target_prompts[0],
        rows=_rows(
            make,
            study.model,
            settings.steps,
            (settings.start_step, settings.start_layer),
            masks=words is not None,
        ),
    )


_RENAMED = {"ablate_edited": "ablate", "ablate_generated": "ablate"}
__getattr__ = on_demand(__name__, {"ablate": __name__}, renamed=_RENAMED)


def _masked(
    request: Request, control: MasaCtrl, words: tuple[str | None, str]
) -> tuple[Request, MasaCtrl]:
    """The same with masks from words: an edit's belong to its request, others to the control."""
    of_source, of_target = words
    if isinstance(request, EditRequest):
        return replace(request, masks=EditMasks(source=of_source, targets=of_target)), control
    source, target = map(without_weights, (request.source_prompt, request.target_prompts[0]))
    masks = WordMasks(
        words=(of_source or "", of_target, of_target), prompts=(source, target, target)
    )  # source, target, its twin
    return request, replace(control, masks=masks)


def _rows(
    make: _Make, model: LoadedModel, steps: int, usual: tuple[int, int], *, masks: bool
) -> tuple[Ablation, ...]:
    s, layer = usual
    count = len(find_layers(model.denoiser))
    starts = sorted({s, *(min(round(part * steps), steps - 1) for part in _PARTS)})
    layers = sorted({layer, *range(0, count, max(1, count // 4))})
    rows = [
        Ablation(
            name="start-step",
            cells=tuple((f"S = {k}", make(_from(k, layer))) for k in starts),
        ),
        Ablation(
            name="start-layer",
            cells=tuple((f"L = {k}", make(_from(s, k))) for k in layers),
        ),
        Ablation(
            name="places",
            cells=tuple(
                (said, make(MasaCtrl(schedule=Schedule(start_step=s, places=places))))
                for said, places in _PLACES
            ),
        ),
    ]
    if masks:
        with warnings.catch_warnings():
            # A mask of nothing at a step: the picture shows what comes of it.
            warnings.simplefilter("ignore", ControlWarning)
            pair = [make(_from(s, layer), words=chosen) for chosen in (False, True)]
        said = ("without masks", "masks from words")
        rows.append(Ablation(name="masks", cells=tuple(zip(said, pair, strict=True))))
    return tuple(rows)


def _from(start_step: int, start_layer: int) -> MasaCtrl:
    return MasaCtrl(schedule=Schedule(start_step=start_step, start_layer=start_layer))
