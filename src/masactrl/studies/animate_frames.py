"""What draws the frames of an animation, a few at once: from words, or of an inverted picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from masactrl.attention import Rows, SourceFeatures
from masactrl.layouts.attach import attach_layouts
from masactrl.methods import MasaCtrl
from masactrl.runs.generate import painter
from masactrl.runs.layout import guides_of
from masactrl.runs.running import running

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.edit_request import EditRequest
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.layout import Layout
    from masactrl.runs.request import ResolvedRequest
    from masactrl.runs.session import EditSession

__all__ = ["Frames", "FromPicture", "FromWords"]


class Frames(Protocol):
    """What draws an animation, a few frames at once."""

    def source(self) -> Image.Image:
        """Return the source; called once, before any frame."""
        ...

    def draw(self, numbers: range) -> tuple[Image.Image, ...]:
        """Return the frames of these numbers, from 0, which are one batch."""
        ...


class FromWords:
    """Frames of a source that is made from its prompt."""

    def __init__(
        self,
        model: LoadedModel,
        settings: ResolvedRequest,
        poses: Layout,
        first_frame: bool,
        on_step: Callable[[StepRecord], None] | None,
    ) -> None:
        self._model, self._settings, self._poses = model, settings, poses
        self._both = first_frame
        self._control = MasaCtrl.of(settings)
        with running(model, settings):
            self._pictures = painter(model, settings, on_step)
        self._networks: dict[tuple[str, str | None], Any] = {}
        # In the host's memory, as edits keep their sources, and as it is: every bit counts.
        self._recorded = SourceFeatures(device="cpu")
        self._first: Image.Image | None = None
        self._led(range(1))  # a pose that does not fit is said at once

    def source(self) -> Image.Image:
        """Return the source, which is recorded, the first frame beside it where frames read it."""
        settings, pipeline, control = self._settings, self._model.pipeline, self._control
        prompts = [settings.source_prompt]
        with running(self._model, settings):
            if not self._both:
                with control.record(pipeline, device="cpu") as self._recorded:
                    (source,) = self._pictures(prompts)
                return source
            with (
                attach_layouts(pipeline, self._led(range(1), source=True), images=2),
                control.attach(pipeline, Rows.one_source(targets=1), record=self._recorded),
            ):
                source, self._first = self._pictures([*prompts, *settings.target_prompts])
            return source

    def draw(self, numbers: range) -> tuple[Image.Image, ...]:
        """Return the frames of these numbers."""
        return _after_first(self._first, numbers, self._drawn)

    def _drawn(self, numbers: range) -> tuple[Image.Image, ...]:
        count, pipeline = len(numbers), self._model.pipeline
        rows = Rows.from_cache(targets=count, sources=1 + self._both)
        with (
            running(self._model, self._settings),
            attach_layouts(pipeline, self._led(numbers), images=count),
            self._control.attach(pipeline, rows, source=self._recorded),
        ):
            return self._pictures(list(self._settings.target_prompts) * count)

    def _led(self, numbers: range, *, source: bool = False) -> list[Any]:
        images = [*([0] if source else []), *(number + 1 for number in numbers)]
        return guides_of(
            self._model,
            [self._poses],
            size=(self._settings.height, self._settings.width),
            images=images,
            targets=len(self._poses.pictures),
            networks=self._networks,
        )


class FromPicture:
    """Frames of a picture that was inverted: edits, a batch of targets each."""

    def __init__(
        self,
        session: EditSession,
        request: EditRequest,
        poses: Layout,
        first_frame: bool,
        on_step: Callable[[StepRecord], None] | None,
    ) -> None:
        self._session, self._request, self._poses = session, request, poses
        self._both, self._on_step = first_frame, on_step
        self._beside: SourceFeatures | None = None
        self._first: Image.Image | None = None

    def source(self) -> Image.Image:
        """Return the picture; the first frame is recorded where others read it."""
        if self._both:
            recorded = SourceFeatures(device="cpu")
            (self._first,) = self._drawn(range(1), record=recorded)
            self._beside = recorded
        return self._session.picture

    def draw(self, numbers: range) -> tuple[Image.Image, ...]:
        """Return the frames of these numbers."""
        return _after_first(self._first, numbers, self._drawn)

    def _drawn(
        self, numbers: range, record: SourceFeatures | None = None
    ) -> tuple[Image.Image, ...]:
        shown = tuple(self._poses.pictures[number] for number in numbers)
        asked = replace(
            self._request,
            target_prompts=self._request.target_prompts * len(numbers),
            layouts=(replace(self._poses, pictures=shown, stated=()),),
        )
        made = self._session.edit(asked, beside=self._beside, record=record, on_step=self._on_step)
        return tuple(target.controlled for target in made.targets)


def _after_first(
    first: Image.Image | None,
    numbers: range,
    draw: Callable[[range], tuple[Image.Image, ...]],
) -> tuple[Image.Image, ...]:
    """The frames of these numbers, of which the first may be there already."""
    if first is None or 0 not in numbers:
        return draw(numbers)
    return (first, *(draw(numbers[1:]) if len(numbers) > 1 else ()))
