"""What measurements give back; `masactrl.bench.model_measure` makes them.

An edit's right answer is the same animal in the same place doing something else. What an edit does
to the animal is one number, the identity error of a pair of pictures as the inspector reads them:

    E = SW + 10 [pattern differs]

of `masactrl.puppets.identity`: SW compares the colours that both animals show, as CIELAB. Two
animals of one species drawn at random are about 52 apart. Figures are plain means.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from masactrl.puppets.captions import PromptTask, full_prompt, spare_prompt
from masactrl.puppets.identity import NAMED_WEIGHT, PATTERN_WEIGHT
from masactrl.puppets.inspector import Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptAgreement:
    """How well pictures show what their prompts say.

    Attributes:
        count: pictures.
        shares: for each of `ASKED`, and "all" four together, the share that is right, in [0, 1].
        close_up_unasked: share of close-ups among them, though no prompt asks for one.
        close_up_asked: share of close-ups among further pictures whose prompts ask for one; None
            where there are none.
        confusion: for each of `ASKED` (asked, seen) counts, in the order of `QUESTIONS`.
        tasks, readings, samples: prompts, what the inspector says, and pictures (k, 3, h, w) in
            [0, 1] of the first k pictures.
    """

    count: int
    shares: Mapping[str, float]
    close_up_unasked: float
    close_up_asked: float | None
    confusion: Mapping[str, Tensor]
    tasks: tuple[PromptTask, ...]
    readings: Reading
    samples: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EditTask:
    """A source prompt and a target prompt that differ in the action alone.

    A ``spare`` task's target prompt leaves place and facing out: what it does not say, noise and
    self-attention decide, so that the choice of S and L shows.
    """

    species: str
    place: str
    facing: str
    source_action: str
    target_action: str
    spare: bool = False

    @property
    def source_prompt(self) -> str:
        """The canonical prompt of the source."""
        return full_prompt(self.species, self.source_action, self.place, self.facing)

    @property
    def target_prompt(self) -> str:
        """The canonical prompt of the target, or what a spare one leaves of it."""
        if self.spare:
            return spare_prompt(self.species, self.target_action)
        return full_prompt(self.species, self.target_action, self.place, self.facing)


@dataclass(frozen=True, slots=True, kw_only=True)
class EditSide:
    """Targets against their sources, means over all pairs.

    Attributes:
        colours: SW, how far the colours of the animal are from the source's, CIELAB.
        coat, accent: CIELAB distance to the source's colour of that name.
        pattern: share whose pattern is another than the source's, in [0, 1].
        action, species: share that shows what the target prompt says, in [0, 1].
        facing, place: share that is as the source's prompt says, and the target's unless spare.
        background: PSNR against the source in dB, where the inspector sees neither animal; at most
            60. Shadows are background.
    """

    colours: float
    coat: float
    accent: float
    pattern: float
    action: float
    species: float
    facing: float
    place: float
    background: float

    @property
    def identity_error(self) -> float:
        """E, the equation at the head of this file."""
        return self.colours + PATTERN_WEIGHT * self.pattern

    @property
    def named_error(self) -> float:
        """The figure of earlier releases, (dE(coat) + dE(accent)) / 2 + 25 [pattern differs]."""
        return (self.coat + self.accent) / 2 + NAMED_WEIGHT * self.pattern


@dataclass(frozen=True, slots=True, kw_only=True)
class EditFigures:
    """Edits with mutual self-attention and, from the same noise, without.

    Attributes:
        pairs: number of pairs.
        start_step, start_layer: S and L.
        controlled, uncontrolled: the targets' figures.
        source_action: share of sources that show their action.
        tasks, samples: prompts and pictures (k, 3, 3, h, w) in [0, 1] of the first k pairs: source,
            controlled, uncontrolled.
    """

    pairs: int
    start_step: int
    start_layer: int
    controlled: EditSide
    uncontrolled: EditSide
    source_action: float
    tasks: tuple[EditTask, ...]
    samples: Tensor

    @property
    def identity_ratio(self) -> float:
        """Identity error with control over that without; 0.5 is half."""
        return self.controlled.identity_error / max(self.uncontrolled.identity_error, 1e-9)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormFigures:
    """The same edits in every form, on sources whose coat looks like their background.

    Attributes:
        pairs, candidates: sources that were kept, and that they were chosen from.
        start_step, start_layer: S and L.
        alike, typical: mean CIELAB distance between coat and background of the kept sources and of
            all candidates.
        useless: share of the automatic masks that were empty or full, in [0, 1].
        sides: form -> the targets' figures.
        tasks, samples: prompts and pictures (k, 1 + forms, 3, h, w) in [0, 1] of the first k pairs:
            source, then the forms in the order of `sides`.
    """

    pairs: int
    candidates: int
    start_step: int
    start_layer: int
    alike: float
    typical: float
    useless: float
    sides: Mapping[str, EditSide]
    tasks: tuple[EditTask, ...]
    samples: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class EditGrid:
    """The same edits for every S and L.

    Attributes:
        pairs: number of pairs.
        start_steps, start_layers: the axes.
        cells: ``cells[i][j]`` is controlled with ``start_steps[i]`` and ``start_layers[j]``.
        uncontrolled: the same without control.
    """

    pairs: int
    start_steps: tuple[int, ...]
    start_layers: tuple[int, ...]
    cells: tuple[tuple[EditSide, ...], ...]
    uncontrolled: EditSide

    def values(self, name: str) -> Tensor:
        """(start steps, start layers) of one figure of `EditSide` by name."""
        return torch.tensor([[float(getattr(side, name)) for side in row] for row in self.cells])
