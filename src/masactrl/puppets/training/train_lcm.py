"""Distil the model into a LoRA for a few steps: latent consistency (Luo et al. 2023).

    f(z_t, t) = c_skip(t) z_t + c_out(t) (z_t - sigma_t eps) / alpha_t      the student's z_0
    loss      = d( f(z_t, t), f(z_s, s) )         z_s: one guided DDIM step of the teacher from z_t

f is the same all along a trajectory of the teacher and the identity at its end, so that one call
answers what took many. The guidance scale is drawn per picture and becomes part of the student.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor

from masactrl.diffusion.noise import timestep_grid
from masactrl.errors import MissingExtra
from masactrl.puppets.training.optimizer import MuonAdamW
from masactrl.puppets.training.run import Ema, OnRecord, Run, placed
from masactrl.puppets.training.train import Batches, Noising

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

    from masactrl.puppets.training.data import PictureCache

_RANK: Final = 12
_TARGETS: Final = (
    *("to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"),
    *("conv1", "conv2", "conv_shortcut", "time_emb_proj"),
)
_TEACHER_STEPS: Final = 50
_GUIDANCE: Final = (3.0, 6.0)
_SIGMA_DATA: Final = 0.5
_TIMESTEP_SCALING: Final = 10.0
_HUBER: Final = 1e-3


def with_lora(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy whose LoRA alone can be trained; at first it changes nothing.

    Raises:
        MissingExtra: peft is not installed.
    """
    peft = _peft()
    student = copy.deepcopy(unet).requires_grad_(False)
    student.add_adapter(
        peft.LoraConfig(
            r=_RANK, lora_alpha=_RANK, init_lora_weights="gaussian", target_modules=list(_TARGETS)
        )
    )
    return student


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise MissingExtra("Training a LoRA", extra="lora") from error
    return peft


def scalings(t: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) timesteps -> c_skip, c_out (n, 1, 1, 1); at t = 0 they are 1 and 0."""
    far = (t.float() * _TIMESTEP_SCALING).view(-1, 1, 1, 1)
    whole = far.square() + _SIGMA_DATA**2
    return _SIGMA_DATA**2 / whole, far / whole.sqrt()


def clean(z_t: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    """z_0 = (z_t - sqrt(1 - a) eps) / sqrt(a)."""
    return (z_t - (1 - a).sqrt() * eps) / a.sqrt()


def train_lcm(
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    batch: int = 32,
    learning_rate: float = 5e-4,
    offset_noise: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    on_record: OnRecord | None = None,
) -> dict[str, Tensor]:
    """Train (or continue) and return the averaged LoRA: weights by name, as diffusers saves them.

    Args:
        pipeline: the teacher; left as it is, but for the device and type of its parts.
        latents, cache: scaled latents (count, c, h, w), and the pictures they are of.
        directory: checkpoints and log; an existing checkpoint is continued.
        budget: seconds of training over all sessions.
        batch, learning_rate, offset_noise, seed, device, on_record: as in `train_diffusion`.

    Raises:
        MissingExtra: peft is not installed.
    """
    torch.manual_seed(seed)  # a training run owns its process
    text = pipeline.text_encoder.to(device, torch.float32).requires_grad_(False).eval()
    teacher = placed(pipeline.unet.float(), device).requires_grad_(False).eval()
    if torch.device(device).type == "cpu":  # see `train_diffusion`
        teacher.set_attn_processor(AttnProcessor())
    student = placed(with_lora(teacher), device).train()
    batches = Batches.of(latents, cache, pipeline.tokenizer, seed=seed, device=device)
    empty = text(batches.empty[None]).last_hidden_state
    scheduler = pipeline.scheduler
    noising = Noising(scheduler.alphas_cumprod, offset=offset_noise)
    # (51,): the teacher's timesteps from noise on, and its end, t = 0.
    grid = torch.tensor([*_timesteps(scheduler), 0])
    alpha_bar = scheduler.alphas_cumprod.to(device)
    ema = Ema(student, 0.98)
    optimizer = MuonAdamW(student, lr=learning_rate, weight_decay=0.0)
    run = Run(
        directory=directory,
        budget=budget,
        learning_rate=learning_rate,
        warmup_steps=50,
        on_record=on_record,
    )
    begun, smooth = False, None
    for step in run.steps({"student": student, "ema": ema}, optimizer):
        if not begun:
            batches.begin(seed + 1 + step)
            begun = True
        index, tokens = batches.draw(batch)
        index = index.to(device)
        z_0, where = batches.latents[index].float(), batches.weights[index].float()
        k = torch.randint(_TEACHER_STEPS, (batch,), generator=batches.generator)
        g = torch.rand(batch, generator=batches.generator).view(-1, 1, 1, 1).to(device)
        g = _GUIDANCE[0] + (_GUIDANCE[1] - _GUIDANCE[0]) * g
        t, s = grid[k].to(device), grid[k + 1].to(device)
        a_t, a_s = (alpha_bar[x].view(-1, 1, 1, 1) for x in (t, s))
        z_t = a_t.sqrt() * z_0 + (1 - a_t).sqrt() * noising.noise(z_0, batches.noise)
        with torch.no_grad(), torch.autocast(device, torch.bfloat16):
            states = text(tokens).last_hidden_state
            both = torch.cat((empty.expand_as(states), states))
            eps = teacher(torch.cat((z_t, z_t)), torch.cat((t, t)), both).sample.float()
            without, asked = eps.chunk(2)
            guided = without + g * (asked - without)
            z_s = a_s.sqrt() * clean(z_t, guided, a_t) + (1 - a_s).sqrt() * guided
            wanted = _answer(student, z_s, s, states, a_s)
        with torch.autocast(device, torch.bfloat16):
            given = _answer(student, z_t, t, states, a_t)
        distance = ((given - wanted).square() + _HUBER**2).sqrt() - _HUBER
        loss = (where * distance).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        ema.update(student)
        smooth = loss.detach() if smooth is None else torch.lerp(smooth, loss.detach(), 0.02)
        if step % 50 == 0:
            run.record(loss=float(smooth), rate=run.rate(), images=float(step * batch))
    state = _peft().get_peft_model_state_dict(ema.module)
    return {name: value.detach().cpu() for name, value in state.items()}


def save_lora(weights: dict[str, Tensor], folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, float16, as `load_lora_weights` reads it."""
    half = {name: value.half().contiguous() for name, value in weights.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=half)


def _timesteps(scheduler: Any) -> tuple[int, ...]:
    config = scheduler.config
    return tuple(
        timestep_grid(
            _TEACHER_STEPS,
            trained=config.num_train_timesteps,
            spacing=config.timestep_spacing,
            offset=config.steps_offset,
        )
    )


def _answer(unet: Any, z: Tensor, t: Tensor, states: Tensor, a: Tensor) -> Tensor:
    """F of the head of this file."""
    eps = unet(z, t, states).sample.float()
    c_skip, c_out = scalings(t)
    return c_skip * z + c_out * clean(z, eps, a)
