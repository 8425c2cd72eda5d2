"""`masactrl edit`: a picture and what it should show instead."""

from __future__ import annotations

from functools import partial

from rich.console import Console

from masactrl.cli.console import finishing, interrupted, quiet_libraries
from masactrl.cli.declared import Given, takes
from masactrl.cli.edit_auto import choosing, judges_of
from masactrl.cli.edit_options import (
    AutoOption,
    EditPlanOption,
    JudgeClipOption,
    JudgeDinoOption,
    PictureArgument,
    PixelOption,
    SessionOption,
)
from masactrl.cli.edit_run import check_session_place, run_edit, show_plan, tell
from masactrl.cli.job import ConfigOption
from masactrl.cli.like import LikeOption
from masactrl.cli.output import Output
from masactrl.runs.edit_request import EditRequest, split_seed
from masactrl.runs.inversion_request import InversionRequest
from masactrl.runs.layout import LayoutWords
from masactrl.runs.mask_words import MaskWords
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.result import prepare_folder


@takes(InversionRequest, EditRequest, MaskWords, LayoutWords, ModelSpec, Output)
def edit(
    given: Given,
    picture: PictureArgument,
    pixel_limit: PixelOption = None,
    session: SessionOption = None,
    auto: AutoOption = False,
    judge_clip: JudgeClipOption = None,
    judge_dino: JudgeDinoOption = None,
    like: LikeOption = None,
    config: ConfigOption = None,
    plan: EditPlanOption = False,
) -> None:
    """Show the subject of a picture doing something else.

    The picture comes back as far as the model can draw it (reconstruction), and every target is
    made from its noise, without and with control.

    Ctrl-C finishes the edit and keeps it; a second Ctrl-C stops at once.

    Example: masactrl edit photo.png --to "a photo of a running corgi" -o out
    """
    del like, config  # were read before the other options
    with quiet_libraries():
        from masactrl.pictures.input import PIXEL_LIMIT, read_picture
        from masactrl.runs.edit_result import edit_names

        limit = PIXEL_LIMIT if pixel_limit is None else pixel_limit
        seeds = split_seed(
            given["seed"],
            method=given["method"],
            inversion=given["inversion"],
            fresh_steps=given["fresh-steps"],
            fresh_noise=given["fresh-noise"],
        )
        asked = given.build(InversionRequest, seed=seeds[0])
        masks = given.build(MaskWords).masks(limit=limit)
        layouts = given.build(LayoutWords).layouts()
        request = given.build(EditRequest, masks=masks, seed=seeds[1], layouts=layouts)
        spec, written = given.build(ModelSpec), given.build(Output)
        judges = judges_of(request, auto=auto, clip=judge_clip, dino=judge_dino)
        # Before the model is loaded: nobody should wait for pictures that cannot be kept.
        opened = read_picture(picture, limit=limit)
        if not plan:
            count = len(request.target_prompts)
            names = [*edit_names(count, compare=request.compare, masks=masks is not None)]
            names += ["auto"] if auto else []
            prepare_folder(written.out, names, overwrite=written.overwrite)
            check_session_place(session)
        from masactrl.runs import invert as editing

        loaded = spec.load()
        cost = editing.plan(loaded, opened, asked, request, limit=limit, ahead=not auto)
        if plan:
            ask = partial(editing.plan, loaded, opened, asked, limit=limit)
            chosen = choosing(loaded, ask, asked, request, auto=auto)
            show_plan(cost, chosen, as_json=written.as_json)
            return
        with finishing(Console(stderr=True)) as stopping:
            result = run_edit(
                loaded, (picture, opened), asked, request, cost, session, limit, judges
            )
            paths = result.save(written.out, overwrite=written.overwrite, metadata=written.metadata)
            stopped = stopping()
    tell(result, paths, as_json=written.as_json)
    if stopped:
        interrupted("the edit was finished first")
