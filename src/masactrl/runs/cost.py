"""What an edit costs before it runs: rows through the network, and bytes kept.

A row is one picture in one guidance branch at one step. Plain generation of one picture with
guidance takes 2 N of them.

    inversion         N                   null prompt or no guidance, DDIM
    source, cached    N - S + 1           once; the controlled steps and the first; 0 where it is
                                          recorded while inverting (one-pass)
    source, joint     N                   with every edit
    a target          2 N                 with guidance; N at steps outside its interval
    its twin          2 N                 the same without control, for comparison

    other methods than masactrl           joint; the source takes both branches, 2 N
    models that read their guidance       one row a picture and step in all of these, and plain, N
    sdedit, a target  2 int(s N)          the source runs only where it is not replayed
    blended-latent    2 int(s N) + 16     the mask that it finds takes 16
    imagic            2 N + 3 (A + B)     a training step counts three
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from masactrl.attention import find_layers
from masactrl.attention.schedule import Schedule
from masactrl.diffusion.guidance import guided_steps
from masactrl.errors import ConfigError
from masactrl.methods.starts import FromSource
from masactrl.models.guidance_interval import check_guided_interval
from masactrl.models.joint import check_guidance, latent_channels, reads_guidance
from masactrl.runs.method_choice import check_words, flat_rows, method_of

if TYPE_CHECKING:
    from masactrl.inversion import Inversion
    from masactrl.methods import Start
    from masactrl.models import LoadedModel
    from masactrl.runs.edit_request import Features, ResolvedEdit
    from masactrl.runs.inversion_request import InversionRequest

__all__ = ["EditPlan", "check_inversion", "plan_edit", "records_on_the_way"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EditPlan:
    """The cost of one edit.

    Attributes:
        inversion: rows of the inversion, at most (iterations may end early).
        source: rows of the recording, 0 where joint.
        edit: rows of the edit itself.
        plain: rows of plainly generating one picture with the same steps and guidance.
        calls: U-Net calls of recording and edit together, for a progress bar.
        trajectory_bytes: of the stored latents.
        cache_bytes: of the recorded features, 0 where joint.
        method: who controls the targets.
        features: how they come by the source's features, see `masactrl.runs.edit_request.Features`.
    """

    inversion: int
    source: int
    edit: int
    plain: int
    calls: int
    trajectory_bytes: int
    cache_bytes: int
    method: str = "masactrl"
    features: Features = "cached"

    def lines(self) -> tuple[str, ...]:
        """Return the plan as sentences."""
        first = self.inversion + self.source + self.edit
        later = self.edit
        reads = {
            "cached": "reads the source's features from one recording",
            "joint": "runs the source with every edit",
            "none": "reads nothing of the source",
        }
        return (
            f"rows through the U-Net: inversion {self.inversion}, source features {self.source}, "
            f"targets {self.edit}; plain generation of one picture: {self.plain}",
            f"first edit {first / self.plain:.2f} times plain generation, each further one "
            f"{later / self.plain:.2f} times",
            f"kept: trajectory {_mebibytes(self.trajectory_bytes)}, source features "
            f"{_mebibytes(self.cache_bytes)}",
            f"{self.method} {reads[self.features]}",
        )


def plan_edit(
    model: LoadedModel,
    inversion: InversionRequest,
    request: ResolvedEdit,
    size: tuple[int, int],
    *,
    branches: int,
    recorded: bool = False,
) -> EditPlan:
    """Return what an edit will cost.

    Args:
        model: whose U-Net.
        inversion: how the picture is or was inverted.
        request: the edit.
        size: of the picture as the model sees it, (width, height) in pixels.
        branches: guidance branches of the source, 1 where both are the same.
        recorded: whether the source's features are there, or come with the inversion.

    Raises:
        ScheduleError: S or L is beyond the run or the model, or no step is left to a target.
        ConfigError: the method has no such option, it is out of its range, or the model has no use
            for what was asked.
        PromptError: the method aligns words, and the source has none.
    """
    control = method_of(request)
    check_words(control, inversion.source_prompt)
    if request.target_steps is not None and inversion.method == "null-text":
        raise ConfigError(
            f"target_steps={request.target_steps} was given, and null-text inversion has found an "
            "embedding for each of its own steps; leave it out, or invert by another method."
        )
    check_inversion(model, inversion)
    check_guidance(model.pipeline, request.guidance_scale, request.negative_prompt)
    if reads_guidance(model.pipeline):
        # Told its guidance, such a network is called once: every image has one branch.
        branches, request = 1, replace(request, guidance_scale=1.0)
    interval = request.guidance_begin, request.guidance_end
    check_guided_interval(model.pipeline, interval, request.guidance_scale)
    steps, unet = request.steps, model.denoiser
    layers = Schedule(start_layer=request.start_layer).resolve_layers(find_layers(unet))
    Schedule(start_step=request.start_step).resolve_steps([0.0] * steps)
    factor = model.pipeline.vae_scale_factor
    grid = size[1] // factor, size[0] // factor
    method = inversion.build()
    cached = request.mode != "joint"
    visited = 0 if recorded else _visited(inversion, request, free=method.name == "virtual")
    if control.start is not None:
        edit, calls = _late(control.start, inversion, request, branches, model)
        if isinstance(control, FromSource):
            own = request.target_steps or steps
            left = own - control.start.first_step(own)
            beside = control.beside(left, one_branch=reads_guidance(model.pipeline))
            edit += (control.fitting + beside) * len(request.target_prompts)
    elif cached:
        edit, calls = _of_target(request) * _images(request), steps + visited
    else:
        own = branches > 1 and inversion.guidance(model.preset) != 1
        edit, calls = _joint(request, branches, own=own), steps
    if control.start is None:
        edit = edit * evaluations(method, steps) // steps
    channels = latent_channels(model.pipeline)
    features = sum(layer.module.query_dim * grid_size(layer.grid(*grid)) for layer in layers)
    bytes_each = 2 if request.half else unet.dtype.itemsize
    noise = steps if method.name in ("edit-friendly", "virtual") else 0
    # Null-text keeps the embeddings of one text a step.
    words = steps * _text_size(model) if method.name == "null-text" else 0
    latents = channels * grid_size(grid) * (steps + 1 + noise)
    return EditPlan(
        inversion=method.passes(steps, _branches_up(inversion, model)),
        source=visited * branches if cached else 0,
        edit=edit,
        plain=_of_target(request),
        calls=calls,
        trajectory_bytes=4 * (latents + words),
        cache_bytes=(
            features * bytes_each * branches * (steps - request.start_step) if cached else 0
        ),
        method=request.method,
        features=request.features,
    )


def evaluations(method: Inversion, steps: int) -> int:
    """Evaluations of the network on the way down: some rules of flows ask between steps, too."""
    return {"midpoint": 2 * steps, "fireflow": steps + 1}.get(method.rule, steps)


def _images(request: ResolvedEdit) -> int:
    """Targets and their twins."""
    return (2 if request.compare else 1) * len(request.target_prompts)


def _joint(request: ResolvedEdit, branches: int, *, own: bool) -> int:
    """Rows of a batch that the source is in; `own` says whether it has guidance of its own."""
    images = _images(request)
    if branches > 1 or not flat_rows(request):
        # In branches every image takes as many rows as the one that needs most.
        rows = 2 * request.steps if own else _of_target(request)
        return max(rows, request.steps) * (1 + images)
    return request.steps + _of_target(request) * images


def _of_target(request: ResolvedEdit, first: int = 0) -> int:
    """Rows of a target from a step on."""
    left = request.steps - first
    if request.guidance_scale == 1:
        return left
    steps = guided_steps(request.steps, request.guidance_begin, request.guidance_end)
    return left + sum(step >= first for step in steps)


def _late(
    start: Start,
    inversion: InversionRequest,
    request: ResolvedEdit,
    branches: int,
    model: LoadedModel,
) -> tuple[int, int]:
    """Rows and calls where targets begin on the way; see `masactrl.runs.from_source`."""
    steps = request.steps
    own = replace(request, steps=request.target_steps or steps)
    left = own.steps - start.first_step(own.steps)
    rows = _of_target(own, own.steps - left) * len(request.target_prompts)
    if request.compare:
        plain = replace(
            request, method="fixed-seed", method_options=(), control=None, compare=False
        )
        both = branches > 1 and inversion.guidance(model.preset) != 1
        return rows + _joint(plain, branches, own=both), left + steps
    if _replays(inversion):
        return rows, left
    single = branches == 1 or inversion.guidance(model.preset) == 1
    return rows + steps * (1 if single else 2), left + steps


def grid_size(grid: tuple[int, int]) -> int:
    """Return the number of cells."""
    return grid[0] * grid[1]


def _visited(inversion: InversionRequest, request: ResolvedEdit, *, free: bool) -> int:
    """Steps of the recording."""
    if not _replays(inversion) or free:
        return request.steps
    return len({0, *range(request.start_step, request.steps)})


def _replays(inversion: InversionRequest) -> bool:
    """Whether the source is put back on its trajectory."""
    return inversion.build().replay if inversion.replay is None else inversion.replay


def _branches_up(inversion: InversionRequest, model: LoadedModel) -> int:
    """Guidance branches of the inversion itself."""
    single = inversion.guidance(model.preset) == 1 or not inversion.source_prompt
    return 1 if single or reads_guidance(model.pipeline) else 2


def records_on_the_way(inversion: InversionRequest, request: ResolvedEdit, scale: float) -> bool:
    """Whether an edit's source can be recorded while the picture is inverted.

    It can where the inversion asks the network about the latents of its trajectory, or about their
    neighbours and the edit's mode allows it, the source is put back on its trajectory, and the
    guidance branches that targets will read are those that it asks about.

    Args:
        inversion: how the picture is inverted.
        request: the edit.
        scale: guidance of the inversion.
    """
    by_words = request.masks is not None and request.masks.by_words
    visits = inversion.build().visits
    both = inversion.one_branch or request.guidance_scale == 1 or scale != 1
    return (
        request.features == "cached"
        and visits in (("at", "near") if request.mode == "ahead" else ("at",))
        and _replays(inversion)
        and both
        and not by_words
        and request.positions != "matched"  # features of the step before, which comes after here
    )


def check_inversion(model: LoadedModel, inversion: InversionRequest) -> None:
    """Refuse an inversion that a model without an unconditional branch would take no notice of.

    Raises:
        ConfigError: it is one, or it is for another kind of noise levels.
    """
    from masactrl.inversion import inversions_of

    if model.kind not in inversion.build().kinds:
        others = ", ".join(inversions_of(model.kind))
        made = "SD3 and FLUX, whose noise follows a flow" if model.kind == "flow" else "U-Nets"
        raise ConfigError(
            f"{inversion.method} inversion is not one for {made}, as {model.name} is; accepted "
            f"there are {others}."
        )
    unused = inversion.method in ("negative-prompt", "null-text")
    if unused and reads_guidance(model.pipeline):
        raise ConfigError(
            f"{inversion.method} inversion changes what guidance leads away from, and this model "
            "is told its guidance as a number instead; use virtual or direct inversion."
        )


def _text_size(model: LoadedModel) -> int:
    """Numbers of one encoded prompt."""
    pipeline = model.pipeline
    return int(pipeline.tokenizer.model_max_length) * int(model.denoiser.config.cross_attention_dim)


def _mebibytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB"
