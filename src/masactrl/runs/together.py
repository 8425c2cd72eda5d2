"""Several runs of one kind as one batch of rows, each as it is alone up to rounding."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from masactrl.errors import ConfigError
from masactrl.runs.generate import generate, method_of, notes_of, result_of, start_noise
from masactrl.runs.request import GenerateRequest, ResolvedRequest
from masactrl.runs.running import running
from masactrl.settings.prompt_weights import without_weights

if TYPE_CHECKING:
    from masactrl.models import LoadedModel
    from masactrl.runs.result import GenerateResult

__all__ = ["generate_together"]


def generate_together(
    model: LoadedModel, requests: Sequence[GenerateRequest]
) -> tuple[GenerateResult, ...]:
    """Make several requests at once; see `masactrl.runs.generate.generate`.

    Args:
        model: what `load_pipeline` returns.
        requests: they differ in prompts and seeds alone, and have no layouts.

    Returns:
        the results in order; the seconds of each are its share.

    Raises:
        ConfigError: they differ in more, or their method begins from the finished source.
    """
    if len(requests) == 1:
        return (generate(model, requests[0]),)
    with running(model, requests[0]):
        return _made(model, requests)


def _made(model: LoadedModel, requests: Sequence[GenerateRequest]) -> tuple[GenerateResult, ...]:
    import torch

    from masactrl.attention import Rows
    from masactrl.models.drawing import draw, exact_ddim

    resolved = [one.resolve(model.preset) for one in requests]
    shared = {repr(_without_words(one)) for one in resolved}
    method = method_of(resolved[0])
    if len(shared) > 1 or method.start is not None or any(one.layouts for one in resolved):
        raise ConfigError(
            "Requests that differ in more than prompts and seeds, have layouts, or a method that "
            "begins from the finished source, are made one by one."
        )
    notes = [notes_of(model, one) for one in resolved]
    prompts: list[str] = []
    reads: list[tuple[int, ...]] = []
    noise = []
    for one in resolved:
        source, targets = len(prompts), one.target_prompts
        prompts += [one.source_prompt, *targets, *targets]
        twins = range(source + 1 + len(targets), source + 1 + 2 * len(targets))
        reads += [(source,), *((source,) for _ in targets), *((twin,) for twin in twins)]
        noise.append(start_noise(model, one).repeat(1 + 2 * len(targets), 1, 1, 1))
    rows = Rows(images=len(prompts), reads=tuple(reads))
    started = time.perf_counter()
    with (
        exact_ddim(model.pipeline),
        method.attach(model.pipeline, rows, prompts=[without_weights(one) for one in prompts]),
    ):
        pictures = draw(
            model.pipeline,
            prompts,
            torch.cat(noise),
            steps=resolved[0].steps,
            guidance_scale=resolved[0].guidance_scale,
            negative_prompt=resolved[0].negative_prompt,
            interval=(resolved[0].guidance_begin, resolved[0].guidance_end),
            seeds=[one.seed for one in resolved for _ in range(1 + 2 * len(one.target_prompts))],
        )
    seconds = (time.perf_counter() - started) / len(resolved)
    parts = pictures.split([len(one) for one in noise])
    return tuple(
        result_of(model, one, part, seconds=seconds, notes=note)
        for one, part, note in zip(resolved, parts, notes, strict=True)
    )


def _without_words(one: ResolvedRequest) -> ResolvedRequest:
    return replace(one, source_prompt="", target_prompts=(), seed=0)
