"""`masactrl edit`: a picture and what it should show instead."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from masactrl.cli.console import quiet_libraries
from masactrl.cli.edit_auto import choosing, judges_of
from masactrl.cli.edit_run import masks_from, run_edit, show_plan, tell
from masactrl.cli.job import ConfigOption
from masactrl.cli.options import (
    OF_MODEL,
    DeviceOption,
    Dtype,
    DtypeOption,
    Form,
    JsonOption,
    LoraOption,
    ModelOption,
    NoMetadataOption,
    Offload,
    OffloadOption,
    OutOption,
    OverwriteOption,
    PickleOption,
    RevisionOption,
)
from masactrl.result import prepare_folder


class Method(StrEnum):
    """Choices of --inversion; the words are those of `masactrl.inversion.INVERSIONS`."""

    DIRECT = "direct"
    DDIM = "ddim"
    FIXED_POINT = "fixed-point"
    NEGATIVE_PROMPT = "negative-prompt"
    NULL_TEXT = "null-text"
    EDIT_FRIENDLY = "edit-friendly"
    VIRTUAL = "virtual"


class Mode(StrEnum):
    """Choices of --mode; the words are those of `masactrl.editing.request.Mode`."""

    CACHED = "cached"
    JOINT = "joint"


class Keep(StrEnum):
    """Choices of --keep; the words are those of `masactrl.editing.request.Keep`."""

    DEVICE = "device"
    MEMORY = "memory"
    DISK = "disk"


class Fit(StrEnum):
    """Choices of --fit; the words are those of `masactrl.picture_input.Fit`."""

    AUTO = "auto"
    KEEP = "keep"


def edit(
    picture: Annotated[
        Path, typer.Argument(metavar="PICTURE", help="The picture: PNG, JPEG and the like.")
    ],
    to: Annotated[
        list[str],
        typer.Option(
            "--to", metavar="PROMPT", help="What a target shows; repeat for more targets."
        ),
    ],
    source: Annotated[
        str, typer.Option("--from", metavar="PROMPT", help="What the picture shows; may be empty.")
    ] = "",
    out: OutOption = Path("out"),
    model: ModelOption = "puppets",
    revision: RevisionOption = None,
    lora: LoraOption = None,
    inversion: Annotated[
        Method, typer.Option(help="How the picture is traced back to noise.")
    ] = Method.DIRECT,
    steps: Annotated[
        int | None,
        typer.Option(help="Of inversion and edit, 1 to 1000.", show_default=OF_MODEL),
    ] = None,
    cfg: Annotated[
        float | None,
        typer.Option(help="Guidance scale of the targets, 1 and more.", show_default=OF_MODEL),
    ] = None,
    source_cfg: Annotated[
        float | None,
        typer.Option(
            help="Guidance scale of the source, 1 and more. [default: 1; null-text: the model's]",
            show_default=False,
        ),
    ] = None,
    start_step: Annotated[
        int | None,
        typer.Option(
            help="S, the first controlled step: 0 (noisiest) to steps - 1. Earlier keeps more of "
            "the source, layout included.",
            show_default=OF_MODEL,
        ),
    ] = None,
    start_layer: Annotated[
        int | None,
        typer.Option(
            help="L, the first controlled self-attention layer. Lower keeps more of the source.",
            show_default=OF_MODEL,
        ),
    ] = None,
    form: Annotated[
        Form,
        typer.Option(help="Targets read the source only (replace), or also themselves (union)."),
    ] = Form.REPLACE,
    strength: Annotated[float, typer.Option(help="Of the control, 0 (none) to 1 (full).")] = 1.0,
    negative: Annotated[
        str | None,
        typer.Option(
            metavar="PROMPT", help="What no target should show.", show_default="the inversion's"
        ),
    ] = None,
    mask_file: Annotated[
        Path | None,
        typer.Option(help="White where the subject of the picture is; keeps it and rest apart."),
    ] = None,
    target_mask_file: Annotated[
        list[Path] | None,
        typer.Option(
            help="The same for the targets: one for all, or one each.", show_default=False
        ),
    ] = None,
    mask_word: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WORD",
            help="The subject as the target prompts name it, in place of files: one for all, or "
            "one each.",
            show_default=False,
        ),
    ] = None,
    source_mask_word: Annotated[
        str | None,
        typer.Option(metavar="WORD", help="The subject as --from names it.", show_default=False),
    ] = None,
    mask_threshold: Annotated[
        float, typer.Option(help="Attention from which a place belongs to the word, 0 to 1.")
    ] = 0.1,
    keep_background: Annotated[
        bool, typer.Option("--keep-background", help="Put the picture back outside both masks.")
    ] = False,
    compare: Annotated[bool, typer.Option(help="Make every target without control, too.")] = True,
    mode: Annotated[
        Mode, typer.Option(help="Record the source once (cached), or run it with each edit.")
    ] = Mode.CACHED,
    keep: Annotated[Keep, typer.Option(help="Where a recorded source is kept.")] = Keep.MEMORY,
    replay: Annotated[
        bool | None,
        typer.Option(help="Put the source back on its way at every step.", show_default="method's"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(help="Of methods that draw noise; 0 to 2**63 - 1.", show_default=False),
    ] = None,
    iterations: Annotated[
        int | None,
        typer.Option(help="Per step, of fixed-point and null-text.", show_default=False),
    ] = None,
    fresh_steps: Annotated[
        int | None,
        typer.Option(
            help="Cleanest levels that direct and ddim reach by adding noise.", show_default=False
        ),
    ] = None,
    fit: Annotated[
        Fit,
        typer.Option(help="Scale a picture far from the model's size (auto), or never (keep)."),
    ] = Fit.AUTO,
    pixel_limit: Annotated[
        int | None, typer.Option(help="Refuse larger pictures.", show_default="64 million")
    ] = None,
    auto: Annotated[
        bool,
        typer.Option("--auto", help="Try a small grid of S and L, and take what is judged best."),
    ] = False,
    judge_clip: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="Hub id or folder of the CLIP that judges prompts, for --auto.",
            show_default=False,
        ),
    ] = None,
    judge_dino: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The same of the DINO that judges subjects.",
            show_default=False,
        ),
    ] = None,
    session: Annotated[
        Path | None,
        typer.Option(
            help="A .safetensors that keeps the inversion: read when it is there, else written."
        ),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Say what the edit will cost, and do nothing.")
    ] = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = Dtype.AUTO,
    offload: OffloadOption = Offload.NONE,
    allow_pickle: PickleOption = False,
    config: ConfigOption = None,
    no_metadata: NoMetadataOption = False,
    as_json: JsonOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Show the subject of a picture doing something else.

    The picture comes back as far as the model can draw it (reconstruction), and every target is
    made from its noise, without and with control.

    Example: masactrl edit photo.png --to "a photo of a running corgi" -o out
    """
    del config  # was read before the other options
    with quiet_libraries():
        from masactrl.edit import EditRequest, InversionRequest
        from masactrl.editing import edit_names
        from masactrl.picture_input import PIXEL_LIMIT, read_picture

        limit = PIXEL_LIMIT if pixel_limit is None else pixel_limit
        asked = InversionRequest(
            prompt=source,
            method=inversion.value,
            steps=steps,
            guidance_scale=source_cfg,
            replay=replay,
            seed=seed,
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
        )
        judges = judges_of(request, auto=auto, clip=judge_clip, dino=judge_dino)
        # Before the model is loaded: nobody should wait for pictures that cannot be kept.
        opened = read_picture(picture, limit=limit)
        if not plan:
            names = [*edit_names(len(to), compare=compare, masks=masks is not None)]
            names += ["auto"] if auto else []
            prepare_folder(out, names, overwrite=overwrite)
        from masactrl import edit as editing
        from masactrl.models import Lora, load_pipeline

        loaded = load_pipeline(
            model,
            device=device,
            dtype=dtype.value,
            revision=revision,
            loras=[Lora.parse(one) for one in lora or ()],
            offload=offload.value,
            allow_pickle=allow_pickle,
        )
        cost = editing.plan(loaded, opened, asked, request, limit=limit)
        if plan:
            ask = partial(editing.plan, loaded, opened, asked, limit=limit)
            show_plan(cost, choosing(loaded, ask, asked, request, auto=auto), as_json=as_json)
            return
        result = run_edit(loaded, (picture, opened), asked, request, cost, session, limit, judges)
    paths = result.save(out, overwrite=overwrite, metadata=not no_metadata)
    tell(result, paths, as_json=as_json)
