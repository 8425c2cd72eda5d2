"""What editing a real picture costs, beside plain generation of one picture with the same settings.

    python benchmarks/edit_cost.py [--size 512] [--steps 3] [--threads 2] [-o docs/cost.md]

Runs the package's own inversion and edits (`invert`, `session.edit`) on a random-weight U-Net of
Stable Diffusion 1.5's real size. Prints Markdown tables; -o writes them into the page, between the
two marks of their section. The aims: first edit with its inversion at most 1.55 times plain
generation, 2.1 times with an exact source, each further edit 1.1 times, peak memory 1.5 times.

Few steps suffice, because every step costs the same: at S = 1 of 3 steps the rows through the U-Net
stand to each other nearly as at S = 4 of 50. What does not grow with the steps, encoding and
decoding, would weigh far too much in so short a run: the runs have a VAE of a few channels, and one
of the real size is timed apart and counted in the table for 50 steps. On two CPU cores count about
ten minutes and 8 GB of memory; --tiny tries the command out.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import diffusers
import torch
from edit_runs import (
    GUIDANCE,
    PROMPTS,
    Settings,
    build_model,
    measure_memory,
    measure_time,
    measure_vae,
)
from page import write_into

from masactrl.runs.cost import plan_edit
from masactrl.runs.invert import EditRequest, InversionRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from masactrl.models import LoadedModel

AIMS = {"first": 1.55, "exact": 2.1, "further": 1.1, "memory": 1.5}
FULL_STEPS, FULL_START = 50, 4  # the paper's
# Pictures that go through the decoder: the target, the reconstruction, the VAE's own of the input.
DECODED = {"plain": 1, "first": 3, "exact": 3, "further": 3}
NAMES = {
    "plain": "plain generation of one picture",
    "first": "first edit, with the inversion",
    "exact": "first edit, the source in a pass of its own (`--mode cached`)",
    "further": "each further edit",
}


def full_run(settings: Settings, model: LoadedModel, timed: Mapping[str, Any]) -> dict[str, Any]:
    """What 50 steps from S = 4 take: the plan, and seconds out of those of single steps."""
    asked = EditRequest(
        target_prompts=PROMPTS[1:2], guidance_scale=GUIDANCE, start_step=FULL_START, compare=False
    )
    plan = plan_edit(
        model,
        InversionRequest(steps=FULL_STEPS),
        asked.resolve(model.preset, FULL_STEPS),
        (settings.size, settings.size),
        branches=1,
    )
    seconds, vae, steps = timed["seconds"], timed["vae"], settings.steps
    unet = {
        "plain": seconds["plain"] / steps * FULL_STEPS,
        "further": seconds["edit"] / steps * FULL_STEPS,
    }
    unet["first"] = seconds["invert"] / steps * plan.inversion + unet["further"]
    unet["exact"] = unet["first"] + seconds["source"] / steps * plan.source
    whole = {name: unet[name] + DECODED[name] * vae["decode"] for name in DECODED}
    for name in ("first", "exact"):
        whole[name] += vae["encode"]
    return {"unet": unet, "whole": whole, "plan": asdict(plan)}


def page(settings: Settings, found: Mapping[str, Any]) -> str:
    """The tables as Markdown, with the aims and whether they are met."""
    seconds, rows, full = found["seconds"], found["rows"], found["full"]
    memory, plan = found["memory"], found["full"]["plan"]
    above = {case: each["peak"] - each["held"] for case, each in memory.items()}
    network = "A tiny U-Net" if settings.tiny else "Stable Diffusion 1.5's U-Net"
    threads = settings.threads or torch.get_num_threads()
    where = f"cpu, {threads} threads" if settings.device == "cpu" else settings.device
    ratios = {name: seconds[name] / seconds["plain"] for name in ("first", "exact", "further")}
    ratios["memory"] = above["edit"] / above["plain"]
    lines = [
        f"{network} with random weights, {settings.size}x{settings.size}, guidance {GUIDANCE:g}, "
        f"float32, {where}; torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"{platform.machine()}. {settings.steps} steps, S = 1, L = 10, one target, null source "
        f"prompt, direct inversion; best of {settings.repeats} in turns, the VAE "
        "of a few channels.",
        "",
        "| run | rows through the U-Net | ratio | seconds | ratio |",
        "|---|---|---|---|---|",
        *(
            f"| {NAMES[name]} | {rows[name]} | {rows[name] / rows['plain']:.2f} "
            f"| {seconds[name]:.2f} | {seconds[name] / seconds['plain']:.2f} |"
            for name in NAMES
        ),
        "",
        "| peak memory, in a process of its own | GiB | above what the model holds, GiB | ratio |",
        "|---|---|---|---|",
        *(
            f"| {name} | {memory[case]['peak'] / 2**30:.2f} | {above[case] / 2**30:.2f} "
            f"| {above[case] / above['plain']:.2f} |"
            for case, name in (("plain", NAMES["plain"]), ("edit", "inversion and two edits"))
        ),
        "",
        f"Of these the recorded source takes {memory['edit']['cache'] / 2**20:.0f} MiB on the "
        f"host; at {FULL_STEPS} steps from S = {FULL_START} it is "
        f"{plan['cache_bytes'] / 2**20:.0f} MiB.",
        "",
        f"From these steps, {FULL_STEPS} of them from S = {FULL_START}, with a VAE of the real "
        f"size (encoding {found['vae']['encode']:.2f} s, decoding {found['vae']['decode']:.2f} s a "
        "picture; an edit decodes its target, the reconstruction and the VAE's own picture):",
        "",
        "| run | U-Net, s | ratio | with the VAE, s | ratio |",
        "|---|---|---|---|---|",
        *(
            f"| {NAMES[name]} | {full['unet'][name]:.1f} "
            f"| {full['unet'][name] / full['unet']['plain']:.2f} | {full['whole'][name]:.1f} "
            f"| {full['whole'][name] / full['whole']['plain']:.2f} |"
            for name in NAMES
        ),
        "",
        *(
            f"- {said} over plain: {ratios[name]:.2f} (aim {AIMS[name]}): "
            f"{'met' if ratios[name] <= AIMS[name] else 'not met'}"
            for name, said in (
                ("first", "first edit, time"),
                ("exact", "first edit with an exact source, time"),
                ("further", "further edit, time"),
                ("memory", "peak memory above the model's own"),
            )
        ),
    ]
    return "\n".join(lines) + "\n"


def measure(settings: Settings) -> dict[str, Any]:
    """Measure everything: memory in processes of their own first, then time in this one."""
    memory = {case: _in_a_process(case, settings) for case in ("plain", "edit")}
    model = build_model(settings)
    found: dict[str, Any] = {"memory": memory, **measure_time(model, settings)}
    found["vae"] = measure_vae(settings)
    found["full"] = full_run(settings, model, found)
    return found


def _in_a_process(case: str, settings: Settings) -> dict[str, int]:
    words = [sys.executable, __file__, "--memory-of", case]
    for name, value in asdict(settings).items():
        if name != "tiny":
            words += [f"--{name}", str(value)]
    done = subprocess.run(
        words + ["--tiny"] * settings.tiny, check=True, stdout=subprocess.PIPE, text=True
    )
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("size", 512), ("steps", 3), ("repeats", 2), ("threads", 0)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tiny", action="store_true", help="a U-Net of a few channels")
    parser.add_argument("--memory-of", choices=["plain", "edit"], help="for this script itself")
    parser.add_argument("-o", "--out", type=Path, help="page to write the tables into")
    options = vars(parser.parse_args())
    out, case = options.pop("out"), options.pop("memory_of")
    settings = Settings(**options)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    if case:
        print(json.dumps(measure_memory(case, settings)))
        return
    text = page(settings, measure(settings))
    print(text)
    if out is not None:
        write_into(out, "edits", text)


if __name__ == "__main__":
    main()
