"""`masactrl edit`: a picture and what it should show instead."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from masactrl.cli.console import finishing, interrupted, quiet_libraries
from masactrl.cli.edit_auto import choosing, judges_of
from masactrl.cli.edit_options import (
    AutoOption,
    BackgroundOption,
    CompareOption,
    DrawnSeedOption,
    EditPlanOption,
    Fit,
    FitOption,
    FreshOption,
    IterationsOption,
    JudgeClipOption,
    JudgeDinoOption,
    Keep,
    KeepOption,
    MaskFileOption,
    MaskWordOption,
    Mode,
    ModeOption,
    PictureArgument,
    PixelOption,
    ReplayOption,
    SessionOption,
    SourceCfgOption,
    SourceMaskWordOption,
    TargetMaskFileOption,
    TargetNegativeOption,
    ThresholdOption,
)
from masactrl.cli.edit_run import check_session_place, masks_from, run_edit, show_plan, tell
from masactrl.cli.job import ConfigOption
from masactrl.cli.model import load_model
from masactrl.cli.options import (
    CfgOption,
    DeviceOption,
    Dtype,
    DtypeOption,
    Form,
    FormOption,
    FromOption,
    Inversion,
    InversionOption,
    JsonOption,
    LoraOption,
    MethodOption,
    MethodOptions,
    ModelOption,
    NoMetadataOption,
    Offload,
    OffloadOption,
    OutOption,
    OverwriteOption,
    PickleOption,
    RevisionOption,
    StartLayerOption,
    StartStepOption,
    StepsOption,
    StrengthOption,
    ToOption,
)
from masactrl.cli.parsing import parse_options
from masactrl.runs.result import prepare_folder


def edit(
    picture: PictureArgument,
    to: ToOption,
    source: FromOption = "",
    steps: StepsOption = None,
    cfg: CfgOption = None,
    negative: TargetNegativeOption = None,
    compare: CompareOption = True,
    fit: FitOption = Fit.AUTO,
    pixel_limit: PixelOption = None,
    inversion: InversionOption = Inversion.DIRECT,
    source_cfg: SourceCfgOption = None,
    replay: ReplayOption = None,
    seed: DrawnSeedOption = None,
    iterations: IterationsOption = None,
    fresh_steps: FreshOption = None,
    session: SessionOption = None,
    start_step: StartStepOption = None,
    start_layer: StartLayerOption = None,
    form: FormOption = Form.REPLACE,
    strength: StrengthOption = 1.0,
    method: MethodOption = "masactrl",
    method_option: MethodOptions = None,
    mode: ModeOption = Mode.CACHED,
    keep: KeepOption = Keep.MEMORY,
    auto: AutoOption = False,
    judge_clip: JudgeClipOption = None,
    judge_dino: JudgeDinoOption = None,
    mask_file: MaskFileOption = None,
    target_mask_file: TargetMaskFileOption = None,
    mask_word: MaskWordOption = None,
    source_mask_word: SourceMaskWordOption = None,
    mask_threshold: ThresholdOption = None,
    keep_background: BackgroundOption = False,
    model: ModelOption = "puppets",
    revision: RevisionOption = None,
    lora: LoraOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    offload: OffloadOption = Offload.NONE,
    allow_pickle: PickleOption = False,
    out: OutOption = Path("out"),
    config: ConfigOption = None,
    plan: EditPlanOption = False,
    as_json: JsonOption = False,
    no_metadata: NoMetadataOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Show the subject of a picture doing something else.

    The picture comes back as far as the model can draw it (reconstruction), and every target is
    made from its noise, without and with control.

    Ctrl-C finishes the edit and keeps it; a second Ctrl-C stops at once.

    Example: masactrl edit photo.png --to "a photo of a running corgi" -o out
    """
    del config  # was read before the other options
    with quiet_libraries():
        from masactrl.pictures.input import PIXEL_LIMIT, read_picture
        from masactrl.runs.edit_result import edit_names
        from masactrl.runs.inversion_request import draws_noise
        from masactrl.runs.invert import EditRequest, InversionRequest
        from masactrl.runs.request import FROM_SOURCE

        limit = PIXEL_LIMIT if pixel_limit is None else pixel_limit
        drawn = method in FROM_SOURCE  # which draw noise, too
        asked = InversionRequest(
            prompt=source,
            method=inversion.value,
            steps=steps,
            guidance_scale=source_cfg,
            replay=replay,
            seed=None if drawn and not draws_noise(inversion.value, fresh_steps) else seed,
            iterations=iterations,
            fresh_steps=fresh_steps,
            fit=fit.value,
        )
        masks = masks_from(
            words=(source_mask_word, tuple(mask_word or ())),
            files=(mask_file, tuple(target_mask_file or ())),
            threshold=mask_threshold,
            limit=limit,
        )
        request = EditRequest(
            target_prompts=tuple(to),
            guidance_scale=cfg,
            negative_prompt=negative,
            start_step=start_step,
            start_layer=start_layer,
            form=form.value,
            strength=strength,
            masks=masks,
            keep_background=keep_background,
            compare=compare,
            mode=mode.value,
            keep=keep.value,
            method=method,
            method_options=parse_options(method_option or ()),
            seed=seed if drawn else None,
        )
        judges = judges_of(request, auto=auto, clip=judge_clip, dino=judge_dino)
        # Before the model is loaded: nobody should wait for pictures that cannot be kept.
        opened = read_picture(picture, limit=limit)
        if not plan:
            names = [*edit_names(len(to), compare=compare, masks=masks is not None)]
            names += ["auto"] if auto else []
            prepare_folder(out, names, overwrite=overwrite)
            check_session_place(session)
        from masactrl.runs import invert as editing

        loaded = load_model(
            model,
            device=device,
            dtype=dtype,
            revision=revision,
            lora=lora,
            offload=offload,
            allow_pickle=allow_pickle,
        )
        cost = editing.plan(loaded, opened, asked, request, limit=limit)
        if plan:
            ask = partial(editing.plan, loaded, opened, asked, limit=limit)
            show_plan(cost, choosing(loaded, ask, asked, request, auto=auto), as_json=as_json)
            return
        with finishing(Console(stderr=True)) as stopping:
            result = run_edit(
                loaded, (picture, opened), asked, request, cost, session, limit, judges
            )
            paths = result.save(out, overwrite=overwrite, metadata=not no_metadata)
            stopped = stopping()
    tell(result, paths, as_json=as_json)
    if stopped:
        interrupted("the edit was finished first")
