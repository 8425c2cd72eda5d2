"""Train the model's adapters for layout: a ControlNet that reads skeletons, a T2I-Adapter edges.

The U-Net stays as it is. The ControlNet begins as a copy of its encoder whose outputs pass through
convolutions of zeros (Zhang et al. 2023); the T2I-Adapter is a small network of its own (Mou et al.
2023). Both are trained on scenes whose poses no words can say, so that the layout must be read.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import torch
from diffusers import ControlNetModel, StableDiffusionPipeline, T2IAdapter
from diffusers.models.attention_processor import AttnProcessor
from torch import Tensor, nn

from masactrl.pictures.edges import canny
from masactrl.puppets.posed import draw_skeletons, nearest_action
from masactrl.puppets.renderer import keypoints_of
from masactrl.puppets.training.data import PictureCache
from masactrl.puppets.training.optimizer import MuonAdamW
from masactrl.puppets.training.run import Ema, OnRecord, Run, placed
from masactrl.puppets.training.train import Batches, Noising

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

LayoutStage = Literal["controlnet", "adapter"]
_CONDITION: Final = (16, 32, 64, 96)  # channels that shrink a skeleton to the latents' size
_THRESHOLDS: Final = (60.0, 160.0)  # lowest and highest of Canny's first one; the second is twice

#: (indices) -> (n, channels, height, width) layouts in [0, 1].
Layouts = Callable[[Tensor], Tensor]


def build_controlnet(unet: UNet2DConditionModel) -> ControlNetModel:
    """The U-Net's encoder with its weights, ahead of convolutions of zeros; reads RGB."""
    return ControlNetModel.from_unet(
        unet, conditioning_channels=3, conditioning_embedding_out_channels=_CONDITION
    )


def build_adapter(unet: UNet2DConditionModel) -> T2IAdapter:
    """A T2I-Adapter of 1.5 million weights that reads one channel of edges."""
    return T2IAdapter(
        in_channels=1,
        channels=list(unet.config.block_out_channels),
        num_res_blocks=2,
        downscale_factor=8,
        adapter_type="full_adapter",
    )


def train_layout(
    stage: LayoutStage,
    pipeline: StableDiffusionPipeline,
    latents: Tensor,
    cache: PictureCache,
    directory: Path,
    *,
    budget: float,
    batch: int = 32,
    learning_rate: float = 1e-3,
    offset_noise: float = 0.1,
    seed: int = 0,
    device: str = "cpu",
    start: ControlNetModel | T2IAdapter | None = None,
    on_record: OnRecord | None = None,
) -> ControlNetModel | T2IAdapter:
    """Train (or continue) one adapter and return it with averaged weights.

    Args:
        stage: "controlnet" or "adapter".
        pipeline: trained; left as it is, but for the device and the type of its text encoder and
            U-Net.
        latents: (count, c, h, w) scaled latents of all pictures of ``cache``.
        cache: pictures of posed scenes.
        directory: checkpoints and log; an existing checkpoint is continued.
        budget: seconds of training over all sessions.
        batch, learning_rate, offset_noise, seed, device, on_record: as in `train_diffusion`.
        start: a trained adapter whose weights a new run begins with; a checkpoint goes before.

    Raises:
        MissingExtra: the adapter's edges need OpenCV, which is not installed.
    """
    torch.manual_seed(seed)  # a training run owns its process
    text = pipeline.text_encoder.to(device, torch.float32).requires_grad_(False).eval()
    unet = placed(pipeline.unet.float(), device).requires_grad_(False).eval()
    network: nn.Module = (build_controlnet if stage == "controlnet" else build_adapter)(unet)
    if torch.device(device).type == "cpu":  # see `train_diffusion`
        unet.set_attn_processor(AttnProcessor())
    if start is not None:
        network.load_state_dict(start.float().state_dict())
    network = placed(network, device).train().requires_grad_(True)
    said = tuple(
        replace(s, pose=replace(s.pose, action=nearest_action(s.pose))) for s in cache.scenes
    )
    batches = Batches.of(
        latents, replace(cache, scenes=said), pipeline.tokenizer, seed=seed, device=device
    )
    layouts = _layouts(stage, cache, batches.generator, device)
    noising = Noising(pipeline.scheduler.alphas_cumprod, offset=offset_noise)
    ema = Ema(network, 0.995)
    optimizer = MuonAdamW(network, lr=learning_rate)
    run = Run(
        directory=directory,
        budget=budget,
        learning_rate=learning_rate,
        warmup_steps=50,  # a short run
        on_record=on_record,
    )
    begun, smooth = False, None
    for step in run.steps({"network": network, "ema": ema}, optimizer):
        if not begun:
            batches.begin(seed + 1 + step)
            begun = True
        index, tokens = batches.draw(batch)
        shown = layouts(index)
        index = index.to(device)
        z_0, where = batches.latents[index].float(), batches.weights[index].float()
        z_t, t, eps = noising.draw(z_0, batches.generator, batches.noise)
        with torch.autocast(device, torch.bfloat16):
            states = text(tokens).last_hidden_state
            predicted = _predicted(stage, network, unet, (z_t, t.to(device), states), shown)
        error = (where * (predicted.float() - eps).square()).mean((1, 2, 3))
        loss = (noising.weight(t).to(device) * error).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        ema.update(network)
        smooth = loss.detach() if smooth is None else torch.lerp(smooth, loss.detach(), 0.02)
        if step % 50 == 0:
            run.record(loss=float(smooth), rate=run.rate(), images=float(step * batch))
    trained: ControlNetModel | T2IAdapter = ema.module.cpu().eval()
    return trained


def _predicted(
    stage: LayoutStage,
    network: nn.Module,
    unet: UNet2DConditionModel,
    noisy: tuple[Tensor, Tensor, Tensor],
    shown: Tensor,
) -> Tensor:
    """The noise that the U-Net predicts with the adapter beside it."""
    z_t, t, states = noisy
    beside: dict[str, Any]
    if stage == "controlnet":
        down, middle = network(z_t, t, states, controlnet_cond=shown, return_dict=False)
        beside = {
            "down_block_additional_residuals": down,
            "mid_block_additional_residual": middle,
        }
    else:
        beside = {"down_intrablock_additional_residuals": network(shown)}
    predicted: Tensor = unet(z_t, t, encoder_hidden_states=states, **beside).sample
    return predicted


def _layouts(
    stage: LayoutStage, cache: PictureCache, generator: torch.Generator, device: str
) -> Layouts:
    size = cache.images.shape[-1]
    if stage == "controlnet":
        joints = keypoints_of(cache.scenes, size)
        return lambda index: draw_skeletons(joints[index].to(device), size)
    return lambda index: _edges(cache, index, generator).to(device)


def _edges(cache: PictureCache, index: Tensor, generator: torch.Generator) -> Tensor:
    """(n, 1, h, w): Canny's edges of the pictures, of every other one those of the outline alone.

    Edges that people find in pictures hold coat patterns too; those they draw do not.
    """
    least, most = _THRESHOLDS
    lows = (least + (most - least) * torch.rand(len(index), generator=generator)).tolist()
    outlined = (torch.rand(len(index), generator=generator) < 0.5).tolist()

    def edges(k: int, low: float, outline: bool) -> Tensor:
        picture = cache.masks[k] if outline else cache.images[k].transpose(1, 2, 0)
        return torch.from_numpy(canny(picture, low, 2 * low))

    with ThreadPoolExecutor() as pool:
        found = list(pool.map(edges, index.tolist(), lows, outlined))
    return torch.stack(found)[:, None].float() / 255
