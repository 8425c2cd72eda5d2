"""A picture inverted once and edited as often as wanted."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from masactrl.diffusion import Trajectory
from masactrl.errors import ConfigError, ControlWarning
from masactrl.models.denoiser import Denoiser
from masactrl.pictures.images import tensor_to_image
from masactrl.pictures.input import Framing
from masactrl.runs.cost import EditPlan, plan_edit
from masactrl.runs.edit import EditRun
from masactrl.runs.edit_request import EditRequest, ResolvedEdit
from masactrl.runs.edit_result import EditedTarget, EditResult
from masactrl.runs.generate import StepRecord
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.layout import guides_of
from masactrl.runs.masks import plan_masks
from masactrl.runs.method_choice import as_walked, resolved_edit
from masactrl.runs.prompts import prompt_warnings
from masactrl.runs.recipe import InputStated, stated_model
from masactrl.runs.reconstruction import Reconstruction, psnr
from masactrl.runs.recording import RecordedSource, RecordingKey, record_source
from masactrl.runs.running import running

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from masactrl.attention import SourceFeatures
    from masactrl.diffusion import OnStep
    from masactrl.layouts.attach import Guide
    from masactrl.methods import Method
    from masactrl.models import LoadedModel
    from masactrl.runs.masks import MaskPlan

__all__ = ["EditSession", "tell_steps"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditSession:
    """One picture, inverted; what it was made from and how does not change any more.

    Recorded source features are kept for later edits that can use them, as are the networks of
    layouts; `forget` lets them go.

    Attributes:
        model: what inverted it and edits it.
        picture: the input, upright, RGB.
        framing: how it lies on the model's grid.
        trajectory: its latents at all noise levels.
        request: how it was inverted.
        stated: name and hash of the input, where it was a file, for recipes.
        passes: rows that the inversion sent through the U-Net; 0 for a session from a file.
        seconds: that the inversion took.
    """

    model: LoadedModel
    picture: Image.Image
    framing: Framing
    trajectory: Trajectory
    request: InversionRequest
    stated: tuple[InputStated, ...] = ()
    passes: int = 0
    seconds: float = 0.0
    _recordings: list[RecordedSource] = field(default_factory=list, repr=False)
    _networks: dict[tuple[str, str | None], Any] = field(default_factory=dict, repr=False)

    def edit(
        self,
        request: EditRequest,
        *,
        method: Method | str | None = None,
        beside: SourceFeatures | None = None,
        record: SourceFeatures | None = None,
        on_step: Callable[[StepRecord], None] | None = None,
    ) -> EditResult:
        """Make every target, with and without control.

        Args:
            request: what to make; what it leaves open comes from the model's preset.
            method: who controls the targets, instead of the method that the request names: a name
                (with that method's own defaults), or a method itself, such as
                `MasaCtrl(schedule=Schedule(places=("decoder",)))`.
            beside: images recorded in an earlier edit, which targets read together with the source,
                as an animation's frames read the first of them (masactrl, mode ahead or cached).
            record: is filled with the images of this edit, which a later edit can have `beside`.
            on_step: called after each U-Net call, first those that record the source; an exception
                raised there ends the edit.

        Raises:
            ScheduleError: S or L is beyond the steps of the run or the layers of the model.
            MaskError: a mask cannot be used.
            PromptError: the method aligns words, and the picture was inverted without a prompt.
            ConfigError: the method has no such option, or it is out of its range.
            UnsupportedPipeline: the model cannot be controlled.
            MasaCtrlError: the model made NaN or infinite values, as some do in float16.

        Warns:
            ControlWarning: the model will not see a prompt as it was written.
        """
        with running(self.model, self.request):
            return self._edited(request, method, beside, record, on_step)

    def _edited(
        self,
        request: EditRequest,
        method: Method | str | None,
        beside: SourceFeatures | None,
        record: SourceFeatures | None,
        on_step: Callable[[StepRecord], None] | None,
    ) -> EditResult:
        settings = self._resolved(request, method)
        _check_shared(settings, beside, record)
        self._plan(settings)  # refuses what cannot be
        notes = self._notes(settings)
        for note in notes:
            warnings.warn(note, ControlWarning, stacklevel=3)
        masks = self._masks(settings)
        denoiser = Denoiser(self.model.pipeline)
        told = tell_steps(on_step, settings.steps)
        _reset_peak(denoiser.device)
        recording, fresh = self._recording(denoiser, settings, masks, told)
        if recording is not None and not recording.key.near:
            settings = replace(settings, mode="cached")  # nothing is approximated
        outcome = EditRun(
            denoiser=denoiser,
            pipeline=self.model.pipeline,
            trajectory=self.trajectory,
            framing=self.framing,
            request=settings,
            masks=masks,
            recording=recording,
            on_step=told,
            on_target_step=tell_steps(on_step, settings.target_steps or settings.steps),
            guide=partial(self._guides, settings) if settings.layouts else None,
            beside=beside,
            record=record,
        )()
        started = time.perf_counter()
        twins = outcome.uncontrolled
        controlled = self._pictures(denoiser, outcome.controlled)
        uncontrolled = (
            (None,) * len(controlled) if twins is None else self._pictures(denoiser, twins)
        )
        (back,) = self._pictures(denoiser, outcome.source)
        quality = self._quality(denoiser, outcome.source, back)
        drawn = outcome.masks or (None,) * (1 + len(controlled))
        once = recording if fresh else None
        return EditResult(
            picture=self.picture,
            reconstruction=back,
            targets=tuple(
                EditedTarget(prompt=prompt, controlled=one, uncontrolled=twin, mask=mask)
                for prompt, one, twin, mask in zip(
                    settings.target_prompts, controlled, uncontrolled, drawn[1:], strict=True
                )
            ),
            quality=quality,
            mask=drawn[0],
            request=settings,
            inversion=self.request,
            trajectory=self.trajectory.recipe(),
            seconds={
                "invert": self.seconds,
                "source": 0.0 if once is None else once.seconds,
                "edit": outcome.seconds,
                "decode": time.perf_counter() - started,
            },
            passes={
                "invert": self.passes,
                "source": 0 if once is None else once.passes,
                "edit": outcome.passes,
            },
            cache_bytes=0 if recording is None else recording.cache.nbytes,
            peak_bytes=_peak(denoiser.device),
            model=self.model.name,
            device=denoiser.device.type,
            dtype=str(denoiser.dtype).removeprefix("torch."),
            warnings=notes,
            stated=stated_model(self.model),
            inputs=self.stated,
            latents=outcome.latents(),
        )

    def plan(self, request: EditRequest, *, method: Method | str | None = None) -> EditPlan:
        """Return what an edit will cost, before it runs; arguments are those of `edit`.

        Raises:
            ScheduleError: S or L is beyond the steps of the run or the layers of the model.
            PromptError: the method aligns words, and the picture was inverted without a prompt.
            ConfigError: the method has no such option, or it is out of its range.
        """
        return self._plan(self._resolved(request, method))

    def _resolved(self, request: EditRequest, method: Method | str | None) -> ResolvedEdit:
        made = resolved_edit(self.model, request, self.trajectory.schedule.timesteps, method)
        if made.fresh_noise and self.trajectory.noise is not None:
            raise ConfigError(
                f"fresh_noise={made.fresh_noise:g} was given, and {self.trajectory.method} "
                "inversion draws the noise of every step by itself; leave it out."
            )
        return as_walked(made, self.trajectory.walk)

    def _plan(self, settings: ResolvedEdit) -> EditPlan:
        guided = settings.guidance_scale != 1 or self.trajectory.guidance != 1
        branches = 2 if guided and not self.trajectory.one_branch else 1
        recorded = settings.features == "cached" and self._found(settings, self._masks(settings))
        return plan_edit(
            self.model,
            self.request,
            settings,
            self.framing.padded,
            branches=branches,
            recorded=bool(recorded),
        )

    def _found(self, settings: ResolvedEdit, masks: MaskPlan | None) -> RecordedSource | None:
        """A recording that is there already and has all that the edit needs."""
        wanted = RecordingKey.of(settings, masks, self.trajectory)
        return next((one for one in self._recordings if one.key.serves(wanted)), None)

    def forget(self) -> None:
        """Let recorded source features go; the next cached edit records them anew."""
        self._recordings.clear()
        self._networks.clear()

    def save(self, path: Path, *, overwrite: bool = False) -> Path:
        """Write the session, without recorded features, as one `.safetensors`; return its path.

        Raises:
            OutputError: it cannot be written, or would replace a file.
        """
        from masactrl.runs.session_file import save_session

        return save_session(self, path, overwrite=overwrite)

    def _guides(self, settings: ResolvedEdit, images: Sequence[int]) -> list[Guide]:
        (width, height), (wide, high) = self.framing.scaled, self.framing.padded
        return guides_of(
            self.model,
            settings.layouts,
            size=(height, width),
            padded=(high, wide),
            images=images,
            targets=len(settings.target_prompts),
            networks=self._networks,
        )

    def _notes(self, settings: ResolvedEdit) -> tuple[str, ...]:
        said = [self.trajectory.prompt, *settings.target_prompts, settings.negative_prompt or ""]
        return prompt_warnings(self.model, [prompt for prompt in said if prompt])

    def _masks(self, settings: ResolvedEdit) -> MaskPlan | None:
        if settings.masks is None:
            return None
        return plan_masks(
            settings.masks, self.framing, self.trajectory.prompt, settings.target_prompts
        )

    def _recording(
        self,
        denoiser: Denoiser,
        settings: ResolvedEdit,
        masks: MaskPlan | None,
        on_step: OnStep | None,
    ) -> tuple[RecordedSource | None, bool]:
        """The source's features, and whether they were recorded just now; none where joint."""
        if settings.mode == "joint":
            return None, False
        found = self._found(settings, masks)
        if found is not None:
            return found, False
        wanted = RecordingKey.of(settings, masks, self.trajectory)
        made = record_source(
            denoiser,
            self.model.pipeline,
            self.trajectory,
            wanted,
            words=None if masks is None else masks.recording(),
            on_step=on_step,
        )
        # One at a time: features of another window or place would pile up unseen.
        self._recordings[:] = [made]
        return made, True

    def _pictures(self, denoiser: Denoiser, latents: Tensor) -> tuple[Image.Image, ...]:
        return tuple(
            self.framing.leave(tensor_to_image(one)) for one in denoiser.decode_image(latents)
        )

    def _quality(self, denoiser: Denoiser, z: Tensor, back: Image.Image) -> Reconstruction:
        own = self.trajectory.latents[-1]
        # A source that was put back on its way ends in the picture's own latents.
        vae = back if torch.equal(z, own.to(z)) else self._pictures(denoiser, own)[0]
        return Reconstruction(
            psnr=psnr(back, self.picture),
            ceiling=psnr(vae, self.picture),
            psnr_to_vae=psnr(back, vae),
        )


def _check_shared(
    settings: ResolvedEdit, beside: SourceFeatures | None, record: SourceFeatures | None
) -> None:
    """Refuse other recordings than the source's where they cannot be; `ConfigError`."""
    if beside is None and record is None:
        return
    if settings.mode == "joint" or settings.masks is not None:
        raise ConfigError(
            "Images were to be read beside the source, or recorded for others; that is for "
            "masactrl in mode ahead or cached, without masks."
        )
    if record is not None and settings.compare:
        raise ConfigError(
            "Targets are to be recorded, and those without control would be, too; give the request "
            "compare=False."
        )


def tell_steps(on_step: Callable[[StepRecord], None] | None, steps: int) -> OnStep | None:
    """Return the loop's callback that tells `on_step`; None for None."""
    if on_step is None:
        return None

    def tell(step: int, timestep: float) -> None:
        on_step(StepRecord(step=step, steps=steps, timestep=timestep))

    return tell


def _reset_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> int | None:
    return int(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else None
