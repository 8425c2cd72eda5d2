"""The paper's comparison on a photograph: inverted once, edited by every method.

source | reconstruction | fixed seed | MasaCtrl | Prompt-to-Prompt | ...

session = invert(model, "corgi.jpg", InversionRequest(source_prompt="a photo of a corgi"))
request = EditRequest(target_prompts=("a photo of a running corgi",))
compare_edited(session, request).to_sheet()
"""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from masactrl.errors import PromptError
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.layout import stated_files
from masactrl.runs.recipe import Recipe, stated_model
from masactrl.settings.shared import FROM_SOURCE
from masactrl.studies.compare import (
    COMPARED,
    COMPARED_FLOWS,
    COMPARISON,
    Comparison,
    ComparisonColumn,
    check_compared,
    column_of,
    layouts_by,
    with_figures,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from PIL import Image

    from masactrl.runs.cost import EditPlan
    from masactrl.runs.generate import StepRecord
    from masactrl.runs.session import EditSession

__all__ = ["compare_edited", "compared_calls", "edited_recipe"]


def compare_edited(
    session: EditSession,
    request: EditRequest,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    on_step: Callable[[StepRecord], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> Comparison:
    """Edit an inverted picture by every method.

    Args:
        session: the picture.
        request: with one target prompt; its S, L, form, strength and masks are masactrl's. Its
            layouts are for all methods, see `compare_generated`.
        methods: names in `masactrl.methods.METHODS`; "fixed-seed" is always the first. None is
            `studies.compare.compared_by(model)` without those that align words, where the picture
            was inverted without a prompt.
        options: fields of the methods by their name.
        seed: of the noise that methods draw that start from the source or from fresh noise.
        on_step: called after each U-Net call of all edits.
        stop: asked before every method after the first; True ends it with those that are made.

    Raises:
        ConfigError: not one target prompt, no method, an unknown one, or one twice.
        PromptError: a method was named that aligns words, and the picture has no prompt.
        MasaCtrlError: what `EditSession.edit` raises.
    """
    if methods is None and session.model.kind == "flow":
        methods = COMPARED_FLOWS
    asked, left_out = _edits(session.plan, request, methods, options, seed)
    columns = [ComparisonColumn(method="source", title="source", image=session.picture)]
    unmade = list(asked)
    for name, edit in asked.items():
        # The fixed seed alone would compare nothing.
        if len(asked) - len(unmade) > 1 and stop is not None and stop():
            break
        unmade.remove(name)
        started = time.perf_counter()
        result = session.edit(edit, on_step=on_step)
        seconds = time.perf_counter() - started
        if len(columns) == 1:
            columns.append(_reconstruction(result.reconstruction, result.quality.psnr))
        columns.append(column_of(request, name, result.targets[0].controlled, seconds))
    return Comparison(
        source_prompt=session.trajectory.prompt,
        target_prompt=request.target_prompts[0],
        columns=with_figures(session.model, columns, request.target_prompts[0]),
        left_out=left_out,
        inversion_seconds=session.seconds,
        unmade=tuple(unmade),
    )


def compared_calls(
    plan: Callable[[EditRequest], EditPlan],
    request: EditRequest,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> int:
    """Return the U-Net calls of a comparison without its inversion; raises what it would raise.

    Args:
        plan: says what an edit costs: `EditSession.plan`, or `runs.invert.plan` with all but the
            edit, before there is a session.
        request: as those of `compare_edited`.
        methods: the same.
        options: the same.
    """
    asked, _ = _edits(plan, request, methods, options, 0)
    return sum(plan(edit).calls for edit in asked.values())


def edited_recipe(
    session: EditSession,
    request: EditRequest,
    *,
    methods: Sequence[str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
) -> Recipe:
    """Return how the pictures of a comparison are made; arguments are those that made it."""
    asked, _ = _edits(session.plan, request, methods, options, seed)
    model, steps = session.model, session.trajectory.steps
    settings = request.resolve(model.preset, steps)
    masks = () if request.masks is None else request.masks.stated
    return Recipe(
        kind="compare",
        picture=COMPARISON,
        model=stated_model(model),
        device=model.pipeline._execution_device.type,
        dtype=model.dtype,
        request={
            **settings.recipe(),
            "inversion": asdict(session.request) | {"steps": steps},
            "methods": [name for name in asked if name != "fixed-seed"],
            "options": {name: dict(values) for name, values in (options or {}).items()},
            "seed": seed,
        },
        inputs=(*session.stated, *masks, *stated_files(request.layouts)),
    )


def _edits(
    plan: Callable[[EditRequest], EditPlan],
    request: EditRequest,
    methods: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]] | None,
    seed: int,
) -> tuple[dict[str, EditRequest], tuple[tuple[str, str], ...]]:
    """The edit of every method by its name, and which methods are left out and why.

    Everything is asked before anything runs: nobody should wait for the last column's mistake.
    """
    given = dict(options or {})
    named = COMPARED if methods is None else tuple(methods)
    edits: dict[str, EditRequest] = {}
    left_out: list[tuple[str, str]] = []
    for name in ("fixed-seed", *check_compared(request, named, given)):
        edit = _edit_by(request, name, given.get(name, {}), seed)
        try:
            plan(edit)
        except PromptError as error:
            if methods is not None or name in given:
                raise
            left_out.append((name, str(error)))
            continue
        edits[name] = edit
    return edits, tuple(left_out)


def _edit_by(request: EditRequest, name: str, options: Mapping[str, Any], seed: int) -> EditRequest:
    """The edit by a method; of masactrl's own settings another one takes no notice."""
    if name == "masactrl":
        own = {"method": name, "method_options": (), "seed": None, "compare": False}
        return replace(request, **own, **options)  # type: ignore[arg-type]
    return EditRequest(
        target_prompts=request.target_prompts,
        guidance_scale=request.guidance_scale,
        guidance_begin=request.guidance_begin,
        guidance_end=request.guidance_end,
        negative_prompt=request.negative_prompt,
        compare=False,
        method=name,
        method_options=options,
        seed=seed if name in FROM_SOURCE else None,
        layouts=layouts_by(request, name),
    )


def _reconstruction(image: Image.Image, psnr: float) -> ComparisonColumn:
    return ComparisonColumn(
        method="reconstruction", title="reconstruction", image=image, note=f"{psnr:.1f} dB"
    )
