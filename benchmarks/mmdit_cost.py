"""What mutual self-attention costs on FLUX and SD3.5, at the real size of their blocks.

    python benchmarks/mmdit_cost.py [--size 512] [--network flux] [-o docs/guides/sd3_and_flux.md]

Random weights; a few blocks stand for all, as every block costs the same: one double and two single
ones for FLUX (19 and 38), two for SD3.5 large (38), one with and one without a second attention for
SD3.5 medium (13 and 11). Every run is one step, all blocks controlled, in a process of its own.
Seconds are those of one CPU thread at work (so other programs do not count), memory is what the run
held at most beyond the weights. The text encoders and the VAE are left out. On one core count ten
minutes and 6 GB of memory; --tiny tries the command out.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from page import write_into

from masactrl.attention import GivenMasks, Rows, Schedule
from masactrl.bench.attention_cost import peak_memory
from masactrl.methods import MasaCtrl

NETWORKS = ("flux", "sd3.5-large", "sd3.5-medium")
RUNS = {
    "plain": "one picture, plain",
    "replace": "first edit: source + target",
    "none": "the same, keys at the origin",
    "union": "the same, union",
    "masks": "the same, given masks",
    "record": "source alone, recorded",
    "further": "further edit: target from the recording",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Rows through the network, CPU seconds, bytes beyond the weights, bytes recorded."""

    rows: int
    seconds: float
    peak: int
    recorded: int = 0


def build(network: str, *, tiny: bool) -> Any:
    """A pipeline without text encoders and VAE, with random weights."""
    heads = {"flux": 24, "sd3.5-large": 38, "sd3.5-medium": 24}[network]
    heads, width = (2, 16) if tiny else (heads, 128 if network == "flux" else 64)
    with torch.device("meta"):
        if network == "flux":
            made: Any = diffusers.FluxTransformer2DModel(
                num_layers=1,
                num_single_layers=2,
                num_attention_heads=heads,
                attention_head_dim=width,
                guidance_embeds=True,
                axes_dims_rope=(4, 6, 6) if tiny else (16, 56, 56),
            )
        else:
            made = diffusers.SD3Transformer2DModel(
                sample_size=128,
                num_layers=3,  # the last one drops the text and does less; it is not counted
                num_attention_heads=heads,
                attention_head_dim=width,
                caption_projection_dim=heads * width,
                joint_attention_dim=4096,
                pooled_projection_dim=2048,
                pos_embed_max_size=192,
                qk_norm="rms_norm",
                dual_attention_layers=(0,) if network == "sd3.5-medium" else (),
            )
            made.transformer_blocks = made.transformer_blocks[:2]
    made = made.to_empty(device="cpu").eval().requires_grad_(False)
    for tensor in (*made.parameters(), *made.buffers()):
        tensor.uniform_(-0.02, 0.02)
    parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipeline: Any
    if network == "flux":
        pipeline = diffusers.FluxPipeline(
            transformer=made, scheduler=scheduler, vae=None, **dict.fromkeys(parts)
        )
    else:
        more = ("text_encoder_3", "tokenizer_3")
        pipeline = diffusers.StableDiffusion3Pipeline(
            transformer=made, scheduler=scheduler, vae=None, **dict.fromkeys((*parts, *more))
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run(pipeline: Any, network: str, images: int, size: int) -> float:
    """CPU seconds of one step of a call."""
    tokens, pooled = (512, 768) if network == "flux" else (333, 2048)
    generator = torch.Generator().manual_seed(0)
    texts = torch.randn(images, tokens, 4096, generator=generator)
    vectors = torch.randn(images, pooled, generator=generator)
    options: dict[str, Any] = {"guidance_scale": 3.5}
    if network != "flux":
        options |= {
            "guidance_scale": 4.5,
            "negative_prompt_embeds": texts,
            "negative_pooled_prompt_embeds": vectors,
        }
    begun = time.process_time()
    with torch.no_grad():
        pipeline(
            prompt_embeds=texts,
            pooled_prompt_embeds=vectors,
            height=size,
            width=size,
            num_inference_steps=1,
            generator=[torch.Generator().manual_seed(0) for _ in range(images)],
            output_type="latent",
            **options,
        )
    return time.process_time() - begun


def measure(network: str, name: str, size: int, tiny: bool) -> Cost:
    """One run in this process."""
    torch.set_num_threads(1)
    pipeline = build(network, tiny=tiny)
    left = torch.zeros(8, 8)
    left[:, :4] = 1.0
    control = MasaCtrl(
        schedule=Schedule(),
        form="union" if name == "union" else "replace",
        masks=GivenMasks(images=(left, left)) if name == "masks" else None,
        positions="none" if name == "none" else None,
    )
    branches = 1 if network == "flux" else 2
    alone = name in ("plain", "record", "further")
    if name == "further":
        with control.record(pipeline) as source:
            run(pipeline, network, 1, size)
        before = _now()
        with control.attach(pipeline, Rows.from_cache(targets=1), source=source):
            seconds = run(pipeline, network, 1, size)
        return Cost(rows=branches, seconds=seconds, peak=peak_memory("cpu") - before)
    before = _now()
    recorded = 0
    context: Any = nullcontext()
    if name == "record":
        context = control.record(pipeline)
    elif not alone:
        context = control.attach(pipeline, Rows.one_source(targets=1))
    with context as held:
        seconds = run(pipeline, network, 1 if alone else 2, size)
        recorded = held.nbytes if name == "record" else 0
    rows = branches * (1 if alone else 2)
    return Cost(rows=rows, seconds=seconds, peak=peak_memory("cpu") - before, recorded=recorded)


def _now() -> int:
    """Bytes that this process holds now, from where its peak is counted anew."""
    Path("/proc/self/clear_refs").write_text("5")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def table(network: str, size: int, costs: dict[str, Cost]) -> str:
    """The costs as Markdown."""
    plain = costs["plain"]
    text = 512 if network == "flux" else 333
    lines = [
        f"{network}, {size}x{size} ({(size // 16) ** 2} tokens of picture, {text} of text), "
        f"float32, one CPU thread; torch {torch.__version__}, diffusers {diffusers.__version__}.",
        "",
        "| one step | rows | s | ratio | GiB beyond weights | recorded, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        recorded = f"{cost.recorded / 2**20:.1f}" if cost.recorded else ""
        lines.append(
            f"| {RUNS[name]} | {cost.rows} | {cost.seconds:.1f} "
            f"| {cost.seconds / plain.seconds:.2f} | {cost.peak / 2**30:.2f} | {recorded} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--network", action="append", choices=NETWORKS, help="all, if not given")
    parser.add_argument("--tiny", action="store_true", help="blocks of a few channels")
    parser.add_argument("-o", "--out", type=Path, help="page to write the tables into")
    options = parser.parse_args()
    texts = []
    for network in options.network or NETWORKS:
        costs: dict[str, Cost] = {}
        for name in RUNS:
            if name == "none" and network != "flux":
                continue  # positions are learned there
            print(f"{network}: {RUNS[name]} ...", file=sys.stderr, flush=True)
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
                given = (network, name, options.size, options.tiny)
                costs[name] = pool.submit(measure, *given).result()
        texts.append(table(network, options.size, costs))
        print(texts[-1], end="\n\n", flush=True)
    page = "\n\n".join(texts)
    if options.out is not None:
        write_into(options.out, "cost", page)


if __name__ == "__main__":
    main()
