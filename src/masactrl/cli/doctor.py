"""`masactrl doctor`: is everything here that pictures need, and does the embedded model draw?"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from masactrl._version import __version__
from masactrl.cli.console import output, quiet_libraries
from masactrl.cli.declared import Given, only, takes
from masactrl.cli.doctor_speed import ASKED, Check, State, compiling, half
from masactrl.cli.output import Output
from masactrl.errors import MasaCtrlError
from masactrl.runs.generate import generate
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.recipe import versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


EXTRAS = {
    "app": ("gradio", "the studio in the browser"),
    "batch": ("pyarrow", "Parquet manifests and results"),
    "bench": ("torchmetrics", "measurements"),
    "layout": ("cv2", "edges of pictures"),
    "lora": ("peft", "LoRA files"),
    "prompts": ("compel", "weights in prompts"),
    "ray": ("ray", "batches on clusters"),
    "video": ("av", "MP4 of animations"),
}
"""Extra -> the package that tells whether it is installed, and what it is for."""

_SPECIES, _PLACE = "cat", "snow"
_LITTLE = 2**30  # bytes; with less free memory even the embedded model becomes uncertain


@takes(only(ModelSpec, "device"), only(Output, "as_json"))
def doctor(
    given: Given,
    draw: Annotated[
        bool,
        typer.Option(
            help="Also draw with the embedded model, in about ten seconds, on a CPU twice that: "
            "in bfloat16, too."
        ),
    ] = True,
    pays: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Also say after how many pictures of the embedded model --compile pays, in "
            "minutes.",
        ),
    ] = False,
) -> None:
    """Check device, precisions, versions, cache, memory, extras, and that the model draws.

    Exits with 1 when something is bad. Nothing is downloaded.

    Example: masactrl doctor
    """
    checks = [*packages(), *extras(), cache()]
    with quiet_libraries():
        from masactrl.models import choose_device

        chosen = choose_device(given["device"])
        checks += [*machine(chosen), *precisions(chosen)]
        checks += drawing(given["device"]) if draw else []
        checks += compiling(chosen) if pays else []
    bad = [one.name for one in checks if one.state is State.BAD]
    if given.build(Output).as_json:
        typer.echo(
            json.dumps({"well": not bad, "checks": [asdict(one) for one in checks]}, indent=2)
        )
    else:
        _report(checks)
    if bad:
        raise MasaCtrlError(f"Not well: {', '.join(bad)}.")


def packages() -> Iterator[Check]:
    """Look at the versions of Python and of the packages that decide about numbers."""
    system = f"{platform.system()} {platform.machine()}"
    yield Check(name="masactrl", state=State.GOOD, seen=f"{__version__} on {system}")
    for name, found in versions().items():
        state = State.BAD if found == "unknown" else State.GOOD
        yield Check(name=name, state=state, seen=found)


def extras() -> Iterator[Check]:
    """Look for the optional packages."""
    for extra, (package, purpose) in EXTRAS.items():
        there = importlib.util.find_spec(package) is not None
        seen = f"{package} is installed" if there else f"pip install 'masactrl[{extra}]'"
        yield Check(
            name=f"extra {extra}",
            state=State.GOOD if there else State.NOTE,
            seen=f"{seen} ({purpose})",
        )


def cache() -> Check:
    """Look at the folder that keeps what was fetched from the Hub."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    present = folder
    while not present.exists() and present != present.parent:
        present = present.parent
    free = shutil.disk_usage(present).free
    offline = ", offline" if constants.HF_HUB_OFFLINE else ""
    if not os.access(present, os.W_OK):
        return Check(name="cache", state=State.BAD, seen=f"{folder} cannot be written to")
    models = len(list(folder.glob("models--*"))) if folder.is_dir() else 0
    return Check(
        name="cache",
        state=State.GOOD,
        seen=f"{folder}: {models} models, {_size(free)} free on the disk{offline}",
    )


def machine(device: torch.device) -> Iterator[Check]:
    """Look at the device and at the memory that is free."""
    import psutil  # type: ignore[import-untyped]  # of accelerate's; it has no types
    import torch

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    threads = f", {torch.get_num_threads()} threads" if device.type == "cpu" else ""
    yield Check(name="device", state=State.GOOD, seen=f"{device} {name}".strip() + threads)
    yield _memory("memory", psutil.virtual_memory().available)
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        yield _memory("device memory", free, total)


def _memory(name: str, free: int, total: int | None = None) -> Check:
    state = State.NOTE if free < _LITTLE else State.GOOD
    of = "" if total is None else f" of {_size(total)}"
    return Check(name=name, state=state, seen=f"{_size(free)}{of} free")


def precisions(device: torch.device) -> Iterator[Check]:
    """Try attention in every precision that the device is offered for."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from masactrl.models import choose_dtype
    from masactrl.models.devices import DTYPES

    usual = choose_dtype("auto", device)
    for name, dtype in DTYPES.items():
        try:
            choose_dtype(name, device)
            q = torch.ones(1, 2, 8, 16, device=device, dtype=dtype)
            works = bool(scaled_dot_product_attention(q, q, q).isfinite().all())
        except (MasaCtrlError, RuntimeError):
            works = False
        seen = ("works" if works else "does not work here") + (", used by auto" * (dtype == usual))
        state = State.GOOD if works else State.BAD if dtype == usual else State.NOTE
        yield Check(name=name, state=state, seen=seen)


def drawing(device: str) -> Iterator[Check]:
    """Let the embedded model draw, and the inspector say whether it is what was asked for.

    What is expected are words, not pixels: other weights, devices and versions draw other pixels.
    """
    import torch

    from masactrl.models import load_pipeline
    from masactrl.pictures.images import image_to_tensor
    from masactrl.puppets.inspector import Inspector

    try:
        model = load_pipeline("puppets", device=device)
        inspector = Inspector.load()
    except MasaCtrlError as error:
        yield Check(name="embedded model", state=State.BAD, seen=str(error))
        return
    result = generate(model, ASKED)
    pictures = tuple(result.pictures().values())
    batch = torch.stack([image_to_tensor(one, signed=False) for one in pictures])
    reading = inspector.read(batch)
    places = sum(one == _PLACE for one in reading.place)
    yield Check(
        name="embedded model",
        state=State.GOOD if places == len(pictures) else State.BAD,
        seen=f"{_PLACE} in {places} of {len(pictures)} pictures, {result.seconds:.1f} s for "
        f"{ASKED.steps} steps",
    )
    # So few steps do not always draw a clear animal: this alone is no fault.
    right = reading.species[0] == _SPECIES
    yield Check(
        name="its animal",
        state=State.GOOD if right else State.NOTE,
        seen=f"asked for a {_SPECIES}, the inspector sees a {reading.species[0]}",
    )
    apart = (batch[1] - batch[2]).abs().max().item()
    yield Check(
        name="control",
        state=State.GOOD if apart > 0 else State.BAD,
        seen=f"moves the target by up to {round(255 * apart)} of 255 levels",
    )
    if device == "cpu" or (device == "auto" and str(model.pipeline.device) == "cpu"):
        yield half(model, pictures)


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB"


def _report(checks: list[Check]) -> None:
    styles = {State.GOOD: "green", State.NOTE: "yellow", State.BAD: "bold red"}
    table = Table(show_header=False, box=None, pad_edge=False)
    for one in checks:
        state = Text(one.state, style=styles[one.state])
        table.add_row(state, Text(one.name), Text(one.seen))
    output().print(table)
