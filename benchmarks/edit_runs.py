"""The runs whose cost `edit_cost.py` compares: plain generation, inversion, edits, and the VAE."""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline
from PIL import Image
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import masactrl
from masactrl.bench.attention_cost import peak_memory, random_unet
from masactrl.models import LoadedModel
from masactrl.models.presets import default_preset
from masactrl.runs.invert import EditRequest, InversionRequest, invert

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from masactrl.runs.cost import EditPlan
    from masactrl.runs.edit_request import Mode
    from masactrl.runs.invert import EditSession

WORDS = Path(masactrl.__file__).parent / "puppets" / "weights" / "tokenizer"
PROMPTS = "a cat standing", "a cat running", "a cat jumping"
GUIDANCE = 7.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured: a square picture, `steps` of which all but the first are controlled."""

    size: int = 512
    steps: int = 3
    repeats: int = 2
    threads: int = 0
    device: str = "cpu"
    tiny: bool = False


def build_vae(*, small: bool) -> AutoencoderKL:
    """Stable Diffusion's VAE with random weights; `small` of a few channels."""
    widths = (8, 8, 8, 8) if small else (128, 256, 512, 512)
    return AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1 if small else 2,
        latent_channels=4,
        norm_num_groups=4 if small else 32,
        scaling_factor=0.18215,
    ).eval()


def build_model(settings: Settings) -> LoadedModel:
    """The real U-Net with random weights; small networks around it."""
    torch.manual_seed(0)
    words = CLIPTokenizer.from_pretrained(WORDS)
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=768,
        intermediate_size=768,
        num_hidden_layers=1,
        num_attention_heads=8,
        bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
    )
    pipeline = StableDiffusionPipeline(
        vae=build_vae(small=True),
        text_encoder=CLIPTextModel(text).eval(),
        tokenizer=words,
        unet=random_unet(tiny=settings.tiny),
        scheduler=DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return LoadedModel(
        pipeline=pipeline.to(settings.device),
        name="random weights",
        family="sd",
        preset=default_preset("sd", height=settings.size, width=settings.size),
    )


def picture(size: int) -> Image.Image:
    """Return noise; on random weights one picture is as good as another."""
    pixels = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def plain(model: LoadedModel, settings: Settings) -> None:
    """Generate one picture with the stock pipeline."""
    model.pipeline(
        PROMPTS[0],
        height=settings.size,
        width=settings.size,
        num_inference_steps=settings.steps,
        guidance_scale=GUIDANCE,
        generator=torch.Generator().manual_seed(0),
    )


def request(prompt: str, mode: Mode = "ahead") -> EditRequest:
    """One target, without the uncontrolled twin, which would be a second target."""
    return EditRequest(
        target_prompts=(prompt,), guidance_scale=GUIDANCE, start_step=1, compare=False, mode=mode
    )


def start(model: LoadedModel, settings: Settings, mode: Mode = "ahead") -> EditSession:
    """Invert the picture for a first edit."""
    asked = InversionRequest(steps=settings.steps)
    return invert(model, picture(settings.size), asked, edit=request(PROMPTS[1], mode))


def measure_time(model: LoadedModel, settings: Settings) -> dict[str, Any]:
    """Best seconds of every run, of the first edit's parts, and its rows, in turns."""
    seconds: dict[str, list[float]] = {"plain": [], "first": [], "exact": [], "further": []}
    parts: list[Mapping[str, float]] = []

    def timed(name: str, run: Callable[[], Any]) -> Any:
        _settle(settings)
        started = time.perf_counter()
        made = run()
        _settle(settings)
        seconds[name].append(time.perf_counter() - started)
        return made

    with torch.no_grad():  # one step, untimed: the first touch of weights and buffers is slow
        text = torch.zeros(2, 77, 768, device=settings.device)
        z = torch.zeros(2, 4, settings.size // 8, settings.size // 8, device=settings.device)
        model.pipeline.unet(z, 1, encoder_hidden_states=text)
    passes: Mapping[str, int] = {}
    plans: list[EditPlan] = []
    result: Any = None
    for _ in range(settings.repeats):
        timed("plain", lambda: plain(model, settings))
        opened: list[EditSession] = []

        def first(kept: list[EditSession] = opened) -> Any:
            kept.append(start(model, settings))
            return kept[0].edit(request(PROMPTS[1]))

        def exact() -> Any:
            session, asked = start(model, settings, "cached"), request(PROMPTS[1], "cached")
            plans.append(session.plan(asked))
            return session.edit(asked)

        result, apart = timed("first", first), timed("exact", exact)
        parts.append(apart.seconds)
        passes = apart.passes
        again = timed("further", lambda kept=opened: kept[0].edit(request(PROMPTS[2])))
        if again.passes["source"] or again.seconds["source"]:
            raise SystemExit("The further edit recorded the source again; nothing was measured.")
    plan = plans[-1]
    if sum(passes.values()) != plan.inversion + plan.source + plan.edit:
        raise SystemExit(f"The plan {plan} is not what was run, {dict(passes)}.")
    rows = {"plain": plan.plain, "exact": sum(passes.values()), "further": passes["edit"]}
    rows["first"] = sum(result.passes.values())
    best = {name: min(each) for name, each in seconds.items()}
    best |= {name: min(each[name] for each in parts) for name in ("invert", "source", "edit")}
    return {"seconds": best, "rows": rows}


def measure_memory(case: str, settings: Settings) -> dict[str, int]:
    """Peak of plain generation or of edits in this process, and what the model alone holds."""
    model = build_model(settings)
    gc.collect()
    held = _held(settings.device)
    if case == "plain":
        plain(model, settings)
        return {"held": held, "peak": peak_memory(settings.device), "cache": 0}
    session = start(model, settings)
    result = session.edit(request(PROMPTS[1]))
    session.edit(request(PROMPTS[2]))
    return {"held": held, "peak": peak_memory(settings.device), "cache": result.cache_bytes}


def measure_vae(settings: Settings) -> dict[str, float]:
    """Seconds of encoding and of decoding one picture with a VAE of the real size."""
    torch.manual_seed(0)
    vae = build_vae(small=settings.tiny).to(settings.device)
    pixels = torch.zeros(1, 3, settings.size, settings.size, device=settings.device)
    seconds: dict[str, float] = {}
    with torch.no_grad():
        for name in ("encode", "decode"):
            _settle(settings)
            started = time.perf_counter()
            if name == "encode":
                z = vae.encode(pixels).latent_dist.mode()
            else:
                vae.decode(z)
            _settle(settings)
            seconds[name] = time.perf_counter() - started
    return seconds


def _settle(settings: Settings) -> None:
    if settings.device.startswith("cuda"):
        torch.cuda.synchronize()


def _held(device: str) -> int:
    """Bytes held now: of torch's allocator on a GPU, of the process on a CPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.memory_allocated())
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise SystemExit("The memory of a process is read from /proc, which this system does not have.")
