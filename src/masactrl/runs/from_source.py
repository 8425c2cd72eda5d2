"""Targets that begin on the way, from the noised source (SDEdit), instead of from its noise.

    z_t = sqrt(a_t) z_0^s + sqrt(1 - a_t) eps      at the step where the method says they begin

z_0^s is the picture's own latent, not a reconstruction: nothing of the inversion comes in. What is
left of the run is plain DDIM. The source itself, and the targets without control, which do start
from the inversion's noise, are a run of their own where they are wanted.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from masactrl.diffusion import denoise, noise_like
from masactrl.methods import FlowEdit, Parts
from masactrl.methods.starts import FromSource, of_source
from masactrl.runs.batch import alone_layout, source_layout
from masactrl.runs.method_choice import method_of
from masactrl.runs.outcome import Outcome

if TYPE_CHECKING:
    from torch import Tensor

    from masactrl.diffusion import OnStep, Trajectory
    from masactrl.methods import Start
    from masactrl.runs.edit import EditRun

__all__ = ["targets_from_source"]


def targets_from_source(run: EditRun, start: Start) -> Outcome:
    """Make the targets of a method that starts them from the source."""
    began, before = time.perf_counter(), run.denoiser.passes
    source, twins = _without_control(run)
    own = _own_steps(run)
    steps = own.trajectory.steps
    first = start.first_step(steps)
    z = _targets(own, first, _noised(own, start, first))
    return Outcome(
        source=source,
        controlled=z,
        uncontrolled=twins,
        masks=None,
        passes=run.denoiser.passes - before + _fitting(run, steps - first),
        seconds=time.perf_counter() - began,
    )


def _own_steps(run: EditRun) -> EditRun:
    """The run as its targets take it, which need not have the steps of the inversion."""
    steps, z_0 = run.request.target_steps, run.trajectory.latents[-1]
    if steps is None:
        return run
    size = (int(z_0.shape[-2]), int(z_0.shape[-1]))
    trajectory = replace(
        run.trajectory,
        schedule=run.denoiser.schedule(steps, size=size),
        latents=z_0.expand(steps + 1, *z_0.shape),  # of which the last are read alone
        unconditional=None,
        noise=None,
    )
    return replace(
        run,
        trajectory=trajectory,
        request=replace(run.request, steps=steps),
        on_step=run.on_target_step,
    )


def _fitting(run: EditRun, steps: int) -> int:
    """Rows that the method takes to learn of the source, or of the source beside the targets."""
    method, count = method_of(run.request), len(run.request.target_prompts)
    if isinstance(method, FlowEdit):
        return count * method.beside(steps, one_branch=run.denoiser.reads_guidance)
    return count * method.fitting if isinstance(method, FromSource) else 0


def _without_control(run: EditRun) -> tuple[Tensor, Tensor | None]:
    """The source as it comes back, and the targets from its noise where they are compared."""
    request, trajectory = run.request, run.trajectory
    if request.compare:
        plain = replace(
            request, method="fixed-seed", method_options=(), control=None, compare=False
        )
        made = replace(run, request=plain)()
        return made.source, made.controlled
    if trajectory.replay:
        return trajectory.latents[-1].to(run.denoiser.device), None
    layout = source_layout(run.denoiser, trajectory, guided_targets=False)
    with torch.no_grad(), run.denoiser.timetable(trajectory.schedule):
        source = denoise(
            layout.guided,
            trajectory.start.to(run.denoiser.device),
            trajectory.schedule,
            walk=trajectory.walk,
            noise=trajectory.noise,
            on_step=run.on_step,
        )
    return source, None


def _noised(run: EditRun, start: Start, first: int) -> Tensor:
    """The targets' latents (1, c, h, w) before their first step."""
    z_0 = run.trajectory.latents[-1]
    noise = noise_like(z_0, run.request.seed or 0)
    return start.latents(z_0, noise, run.trajectory.schedule.pair(first))


def _targets(run: EditRun, first: int, z_t: Tensor) -> Tensor:
    """The targets (n, c, h, w), denoised from that step on."""
    rest = _rest(run.trajectory, first)
    layout = alone_layout(run.denoiser, rest, run.request)
    prompts = run.request.target_prompts
    each = (len(prompts), 1, 1, 1)
    z_0 = run.trajectory.latents[-1].repeat(each).to(run.denoiser.device)
    method = of_source(
        method_of(run.request),
        z_0,
        seed=run.request.seed or 0,
        mask=_mask(run, z_0),
        prompts=(run.trajectory.prompt,) * len(prompts),
    )
    with (
        run.denoiser.timetable(rest.schedule),
        method.attach(run.pipeline, layout.rows, prompts=prompts) as handle,
        torch.no_grad(),
    ):
        after = handle.after_step if isinstance(handle, Parts) else None
        return denoise(
            layout.guided,
            z_t.repeat(each).to(run.denoiser.device),
            rest.schedule,
            walk="euler" if rest.schedule.kind == "flow" else "ddim",
            adjust=None if after is None else lambda _level, z: after(z),
            on_step=_from(run.on_step, first),
        )


def _mask(run: EditRun, z_0: Tensor) -> Tensor | None:
    """Where the targets may differ (n, 1, h, w), by the masks of the request; None without any."""
    if run.masks is None:
        return None
    return run.masks.region((int(z_0.shape[-2]), int(z_0.shape[-1]))).to(z_0.device)


def _rest(trajectory: Trajectory, first: int) -> Trajectory:
    """The trajectory from a step on."""
    unconditional = trajectory.unconditional
    return replace(
        trajectory,
        latents=trajectory.latents[first:],
        schedule=trajectory.schedule.rest(first),
        unconditional=None if unconditional is None else unconditional[first:],
        noise=None if trajectory.noise is None else trajectory.noise[first:],
    )


def _from(on_step: OnStep | None, first: int) -> OnStep | None:
    """Tell of steps that are counted from the beginning of the whole run."""
    if on_step is None:
        return None
    return lambda step, timestep: on_step(first + step, timestep)
