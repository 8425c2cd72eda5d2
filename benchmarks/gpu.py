"""What edits cost on a GPU: seconds, peak memory and their ratio to a plain picture, in one run.

    python benchmarks/gpu.py --minutes 4 -o table.md      (on a GPU)
    python benchmarks/gpu.py --tiny                       (anywhere, to try the command out)

Real classes with random weights, made on the device: Stable Diffusion 1.5's and SDXL's networks at
512 and 1024 pixels with VAEs of the real size and small text encoders; and the embedded model as it
is. Seconds are whole calls, encoding and decoding included, the best of the repeats after a warm-up
of a few steps. Ratios are to the plain picture of the same group of rows. Rows go in the order of
their worth; what does not fit into the minutes is named as left out. The table and a file of JSON
lines beside it are written after every row, so that nothing is lost when the run is ended early.

A compiled row says what its first call took longer, in which its graphs are made: "graphs" are
CUDA graphs of the network's calls, made anew in every run, and so part of its seconds; "blocks" are
the transformer blocks, compiled, "whole" is the whole network. "Pixels off" is the largest
difference, of 255, to the picture that the same call made without.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import numpy as np
import torch
from edit_runs import picture
from gpu_models import SIZES, TITLES, build

from masactrl.bench.official_edit import official_edit
from masactrl.models.denoiser import Denoiser
from masactrl.pictures.images import image_to_tensor, tensor_to_image
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.running import running

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl import LoadedModel
    from masactrl.runs.invert import EditSession

RUNS = {
    "plain": "plain picture",
    "first": "first edit (ahead)",
    "further": "further edit",
    "first, device": "first edit (ahead), `--keep device`",
    "further, device": "further edit, `--keep device`",
    "cached": "first edit (`--mode cached`)",
    "joint": "first edit (`--mode joint`)",
    "official": "first edit as the paper's code computes it",
}
EDITS = ("plain", "first", "further")
GRAPHED = ("plain", "first", "further", "first, device", "further, device")
KEPT = ("plain", "first, device", "further, device")
ALL = tuple(RUNS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows that share a model; `guess` is seconds of building and compiling on a fast GPU."""

    model: str
    dtype: str
    runs: tuple[str, ...]
    batch: int = 1
    compiled: str = ""
    guess: float = 8.0


GROUPS = (
    Group(model="sd", dtype="float16", runs=ALL),
    Group(model="puppets", dtype="float16", runs=(*EDITS, "cached", "official")),
    Group(model="puppets", dtype="float16", runs=EDITS, batch=8),
    Group(model="sd", dtype="float16", runs=GRAPHED, compiled="graphs"),
    Group(model="puppets", dtype="float16", runs=KEPT, compiled="graphs"),
    Group(model="puppets", dtype="float16", runs=KEPT, batch=8, compiled="graphs"),
    Group(model="sdxl", dtype="float16", runs=("plain", "first", "further", "cached"), guess=15),
    Group(model="sdxl", dtype="float16", runs=KEPT, compiled="graphs", guess=15),
    Group(model="sd", dtype="bfloat16", runs=EDITS),
    Group(model="sdxl", dtype="bfloat16", runs=EDITS, guess=15),
    Group(model="puppets", dtype="bfloat16", runs=EDITS),
    Group(model="sd", dtype="float16", runs=("plain",), compiled="blocks", guess=40),
    Group(model="sd", dtype="float16", runs=("plain",), compiled="whole", guess=90),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table."""

    model: str
    dtype: str
    compiled: str
    batch: int
    run: str
    steps: int
    seconds: float
    ratio: float
    peak_gib: float | None
    extra: float
    off: int | None
    parts: dict[str, float]
    times: list[float]


class Runs:
    """The calls of one model, every one a whole run of so many steps."""

    def __init__(self, model: LoadedModel, group: Group, *, tiny: bool) -> None:
        self.model, self.batch = model, group.batch
        self.full = 20 if group.model == "puppets" else 50
        side = 64 if tiny else SIZES[group.model]
        self.picture = picture(side)
        self.guidance = model.preset.guidance_scale
        self.sessions: dict[str, EditSession] = {}
        self.parts: dict[str, float] = {}
        self.made: Any = None  # the latest picture

    def __call__(self, run: str, steps: int) -> None:
        """Make it."""
        name, _, device = run.partition(", ")
        if name == "plain":
            self._plain(steps)
        elif name == "official":
            self._official(steps)
        elif name == "further":
            self._edit(self.sessions[f"{device}{steps}"], "jumping", "ahead", device)
        else:
            mode = {"first": "ahead"}.get(name, name)
            asked = self._asked("running", mode, device, steps)
            inversion = InversionRequest(steps=steps, fit="keep")
            session = invert(self.model, self.picture, inversion, edit=asked)
            if name == "first":
                self.sessions[f"{device}{steps}"] = session
            self._edit(session, "running", mode, device)

    def _prompts(self, verb: str) -> list[str]:
        places = ("meadow", "beach", "snow", "desert", "meadow", "beach", "snow", "desert")
        return [f"a cat {verb} in the {place}" for place in places[: self.batch]]

    def _plain(self, steps: int) -> None:
        with running(self.model, InversionRequest()):
            made = self.model.pipeline(
                self._prompts("standing"),
                height=self.picture.height,
                width=self.picture.width,
                num_inference_steps=steps,
                guidance_scale=self.guidance,
                generator=torch.Generator().manual_seed(0),
            )
        self.made = made.images[0]

    def _start(self, steps: int) -> int:
        return self.model.preset.start_step_of(steps) or 1

    def _asked(self, verb: str, mode: Any, device: str, steps: int) -> EditRequest:
        return EditRequest(
            target_prompts=tuple(self._prompts(verb)),
            start_step=self._start(steps),
            compare=False,
            mode=mode,
            keep="device" if device else "memory",
        )

    def _edit(self, session: EditSession, verb: str, mode: str, device: str) -> None:
        made = session.edit(self._asked(verb, mode, device, session.trajectory.schedule.steps))
        self.parts, self.made = {**made.seconds}, made.targets[0].controlled

    def _official(self, steps: int) -> None:
        pipeline = self.model.pipeline
        denoiser = Denoiser(pipeline)
        z_0 = denoiser.encode_image(image_to_tensor(self.picture)[None])
        made = official_edit(
            pipeline,
            z_0,
            *self._prompts("running"),
            steps=steps,
            guidance=self.guidance,
            start_step=self._start(steps),
        )
        self.made = tensor_to_image(denoiser.decode_image(made)[1])


class Table:
    """Rows as they come, on disk after every one."""

    def __init__(self, out: Path | None, device: str, minutes: float) -> None:
        self._out, self._begun, self._minutes = out, time.perf_counter(), minutes
        self.rows: list[Row] = []
        self.left_out: list[str] = []
        self.pictures: dict[tuple[Any, ...], Any] = {}
        where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
        self._head = (
            f"{where}; torch {torch.__version__}, diffusers {diffusers.__version__}; random "
            "weights but for the embedded model; guidance on, one null source prompt, direct "
            "inversion, without the uncontrolled twin. Seconds are whole calls, VAE included, best "
            "of the repeats."
        )
        print(self._head, flush=True)

    def left(self) -> float:
        """Seconds of the budget."""
        return self._minutes * 60 - (time.perf_counter() - self._begun)

    def apart(self, key: tuple[Any, ...], made: Any) -> int | None:
        """How far a picture is from the uncompiled one of its kind, at most, of 255; or None."""
        pixels = np.asarray(made, dtype=np.int16)
        first = self.pictures.setdefault(key, pixels)
        return None if first is pixels else int(abs(first - pixels).max())

    def add(self, row: Row) -> None:
        """Take a row, and write all."""
        self.rows.append(row)
        print(
            f"{self._minutes * 60 - self.left():6.1f} s {row.model:7} {self._line(row)}", flush=True
        )
        self.write()

    def leave_out(self, what: str, why: str = "did not fit into the minutes") -> None:
        """Name what is not measured."""
        self.left_out.append(f"- left out: {what}: {why}")
        print(self.left_out[-1], flush=True)
        self.write()

    def write(self) -> None:
        """Table and JSON lines."""
        if self._out is None:
            return
        lines = [self._head, ""]
        for model in dict.fromkeys(row.model for row in self.rows):
            lines += [f"**{TITLES[model]}**", "", *self._titles()]
            lines += [self._line(row) for row in self.rows if row.model == model] + [""]
        self._out.write_text("\n".join([*lines, *self.left_out, ""]), encoding="utf-8")
        told = "".join(json.dumps(asdict(row)) + "\n" for row in self.rows)
        self._out.with_suffix(".jsonl").write_text(told, encoding="utf-8")

    @staticmethod
    def _titles() -> list[str]:
        return [
            "| dtype | compiled | pictures | run | seconds | ratio | peak GiB | first call, + s "
            "| pixels off |",
            "|---|---|---|---|---|---|---|---|---|",
        ]

    @staticmethod
    def _line(row: Row) -> str:
        peak = "-" if row.peak_gib is None else f"{row.peak_gib:.2f}"
        return (
            f"| {row.dtype} | {row.compiled or 'no'} | {row.batch} | {RUNS[row.run]} "
            f"| {row.seconds:.3f} | {row.ratio:.2f} | {peak} | {row.extra:.1f} "
            f"| {'-' if row.off is None else row.off} |"
        )


def compile_network(pipeline: Any, how: str, *, tiny: bool) -> None:
    """Compile the U-Net, one graph a shape; tiny, it is traced and no kernels are made."""
    # Sizes of a network's levels, batches of 1 and 2, with and without control.
    torch._dynamo.config.recompile_limit = 64
    options = {"dynamic": False, "backend": "eager" if tiny else "inductor"}
    if how == "blocks":
        pipeline.unet.compile_repeated_blocks(**options)
    elif how == "whole":
        pipeline.unet = torch.compile(pipeline.unet, **options)


def timed(call: Callable[[], None], device: str) -> float:
    """Seconds until the device is done."""
    _settle(device)
    begun = time.perf_counter()
    call()
    _settle(device)
    return time.perf_counter() - begun


def _settle(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def measure(group: Group, table: Table, device: str, *, tiny: bool, repeats: int) -> None:
    """All rows of a group that the budget has room for."""
    dtype = "float32" if device == "cpu" and group.dtype == "float16" else group.dtype
    named = f"{group.model}, {dtype}, {group.compiled or 'not compiled'}, {group.batch} picture(s)"
    if table.left() < (1 if tiny else group.guess):
        table.leave_out(named)
        return
    model = build(group.model, getattr(torch, dtype), device, tiny=tiny)
    if group.compiled == "graphs":
        model = replace(model, compiled="graphs")
    else:
        compile_network(model.pipeline, group.compiled, tiny=tiny)
    runs = Runs(model, group, tiny=tiny)
    steps, few = (6, 3) if tiny else (runs.full, 4)
    plain, weights = 0.0, {"plain": 1.0, "further": 1.2, "official": 6.0}
    for run in group.runs:
        # What the row will take: its warm-up and repeats, from what the plain picture took.
        expected = (repeats + 0.3) * plain * weights.get(run.split(",")[0], 2.5)
        if table.left() < max(expected, 1.0):
            table.leave_out(f"{named}: {RUNS[run]}")
            continue
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        # Once with few steps; compiled, this makes every graph that the row needs.
        extra = timed(lambda run=run: runs(run, few), device)
        times: list[float] = []
        for _ in range(repeats):
            times.append(timed(lambda run=run: runs(run, steps), device))
            if table.left() < times[-1]:
                break
        seconds = min(times)
        plain = seconds if run == "plain" else plain
        peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        table.add(
            Row(
                model=group.model,
                dtype=dtype,
                compiled=group.compiled,
                batch=group.batch,
                run=run,
                steps=steps,
                seconds=seconds,
                ratio=seconds / plain if plain else float("nan"),
                peak_gib=peak,
                extra=max(0.0, extra - seconds * few / steps),
                off=table.apart((group.model, dtype, group.batch, run.split(",")[0]), runs.made),
                parts={} if run in ("plain", "official") else runs.parts,
                times=times,
            )
        )


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=8, help="budget, building included")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=list(SIZES), help="one model alone")
    parser.add_argument("--tiny", action="store_true", help="networks of a few channels")
    parser.add_argument("-o", "--out", type=Path, help="Markdown; JSON lines go beside it")
    options = parser.parse_args()
    table = Table(options.out, options.device, options.minutes)
    for group in GROUPS:
        if options.only not in (None, group.model):
            continue
        try:
            measure(group, table, options.device, tiny=options.tiny, repeats=options.repeats)
        except (RuntimeError, torch.OutOfMemoryError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            table.leave_out(f"{group}", f"{type(error).__name__}: {reason}")
        torch._dynamo.reset()
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
    table.write()


if __name__ == "__main__":
    main()
