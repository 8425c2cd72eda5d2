r"""Blended Latent Diffusion (Avrahami, Fried and Lischinski, SIGGRAPH 2023): a mask and a prompt.

    z_t     = sqrt(a_t) z_0^s + sqrt(1 - a_t) eps            at the step where targets begin
    z^fg    = Sample(z_t, eps_theta(z_t, P))                 what the prompt wants
    z^bg    = sqrt(a') z_0^s + sqrt(1 - a') eps'             the source, as noisy as z^fg
    z_t'    = m z^fg + (1 - m) z^bg

    m       mask in {0, 1} at the latents' size: where the picture may change
    a'      the share of signal variance after the step, 1 after the last one
    eps'    drawn anew at every step

The paper's mask is drawn by a person. Where none is given the one of DiffEdit (Couairon et al.,
ICLR 2023) is taken, grown by a part of the side, as another pose needs room:

    d = mean_k |eps_theta(z_t^k, P) - eps_theta(z_t^k, "")|,   m = [min(d / (3 mean d), 1) > k]

with several noises k at the middle of the noise schedule. The paper's second part, which fits the
decoder to the source outside the mask, is left out: here the outside differs by the VAE alone.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.attention.control_hooks import HookSession, hooked
from masactrl.attention.support import denoiser_of
from masactrl.errors import ConfigError, ControlNotApplied, MaskError
from masactrl.methods.local_blend import blended_steps
from masactrl.methods.method import Parts
from masactrl.methods.sdedit import NoisedSource
from masactrl.methods.starts import FromSource
from masactrl.models.denoiser import Denoiser
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.control_hooks import CallContext
    from masactrl.attention.rows import Rows
    from masactrl.methods.starts import OfSource

__all__ = ["BlendedLatent", "difference_mask"]

_NOISES = 8  # noises that the difference is averaged over
_LEVEL = 0.5  # part of the noise schedule at which it is taken


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendedLatent(FromSource):
    """Blended Latent Diffusion.

    Attributes:
        strength: part of the run that targets take, in (0, 1], as SDEdit's.
        threshold: k of a mask that is found, in (0, 1).
        grow: by how much such a mask is grown on every side, a part of the picture's, 0 to 0.5.

    Raises:
        ConfigError: a value is out of its range.
    """

    takes_masks: ClassVar[bool] = True
    strength: float = 0.75
    threshold: float = 0.5
    grow: float = 0.1
    name: ClassVar[str] = "blended-latent"

    def __post_init__(self) -> None:
        settle(self)
        for name, right, accepted in (
            ("strength", 0.0 < self.strength <= 1.0, "above 0 to 1"),
            ("threshold", 0.0 < self.threshold < 1.0, "between 0 and 1"),
            ("grow", 0.0 <= self.grow <= 0.5, "0 to 0.5"),
        ):
            if not right:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is {accepted}."
                )

    @property
    def start(self) -> NoisedSource:
        """Targets start from their noised source."""
        return NoisedSource(strength=self.strength)

    @property
    def fitting(self) -> int:
        """Rows through the U-Net before a target begins: two a noise, for the mask."""
        return 2 * _NOISES

    @contextmanager
    def attached(
        self, of: OfSource, pipeline: DiffusionPipeline, rows: Rows, prompts: tuple[str, ...]
    ) -> Iterator[Parts]:
        """Blend after every step inside the `with` block.

        Raises `MaskError` for a mask that leaves all or nothing, and `ControlNotApplied` when no
        step was blended.
        """
        denoiser_of(pipeline)  # its noise levels are those of U-Nets
        mask = of.mask
        if mask is None:
            mask = difference_mask(
                Denoiser(pipeline),
                pipeline.scheduler,
                of.z_0,
                prompts,
                threshold=self.threshold,
                seed=of.seed,
            )
            mask = _grown(mask, self.grow)
        _check(mask)
        blending = _Blending(pipeline, of.z_0, mask, of.seed)
        session = HookSession(rows=rows, on_call=blending.on_call)
        with hooked(pipeline, session) as attached, blended_steps(pipeline, blending.step):
            yield Parts(by_name={"blend": attached}, after_step=blending.step)
        if not blending.steps:
            raise ControlNotApplied(
                "No step was blended: the latents did not come from pipeline.scheduler.step, or "
                "the pipeline was not called inside the with block."
            )


class _Blending:
    """Puts the sources back outside the masks, at the noise level that a step has led to."""

    def __init__(self, pipeline: DiffusionPipeline, z_0: Tensor, mask: Tensor, seed: int) -> None:
        self._pipeline, self._z_0, self._mask = pipeline, z_0, mask
        # On the CPU, so that a seed means the same on every device.
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self._context: CallContext | None = None
        self.steps = 0

    def on_call(self, context: CallContext) -> None:
        """Note which step the denoiser is called for."""
        self._context = context

    def step(self, latents: Tensor) -> Tensor:
        """Blend the latents (images, c, h, w) after a step."""
        info = None if self._context is None else self._context.info
        if info is None:
            return latents
        self.steps += 1
        last = info.step + 1 == len(info.timesteps)
        scheduler: Any = self._pipeline.scheduler
        a = 1.0 if last else float(scheduler.alphas_cumprod[int(info.timesteps[info.step + 1])])
        noise = torch.randn(
            self._z_0.shape, generator=self._generator, dtype=torch.float32, device="cpu"
        )
        z_0, mask = self._z_0.to(latents), self._mask.to(latents)
        behind = a**0.5 * z_0 + (1 - a) ** 0.5 * noise.to(latents)
        return torch.where(mask > 0, latents, behind)


@torch.no_grad()
def difference_mask(
    denoiser: Denoiser,
    scheduler: Any,
    z_0: Tensor,
    prompts: Sequence[str],
    *,
    threshold: float,
    seed: int,
) -> Tensor:
    """M of DiffEdit, see the head of this file.

    Args:
        denoiser: the networks.
        scheduler: whose noise levels count.
        z_0: (images, c, h, w) clean latents.
        prompts: one per image.
        threshold: k, in (0, 1).
        seed: of the noises.

    Returns:
        (images, 1, h, w) in {0, 1}.
    """
    t = int(_LEVEL * len(scheduler.alphas_cumprod))
    a = float(scheduler.alphas_cumprod[t])
    said = denoiser.encode_text([*prompts, ""])
    generator = torch.Generator("cpu").manual_seed(seed)
    masks = []
    for image in range(len(z_0)):
        d = torch.zeros(z_0.shape[-2:], dtype=torch.float32, device="cpu")
        for _ in range(_NOISES):
            shape = z_0[:1].shape
            noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
            z_t = a**0.5 * z_0[image : image + 1].float() + (1 - a) ** 0.5 * noise.to(z_0.device)
            wanted = denoiser.predict(z_t, t, said.row(image))
            nothing = denoiser.predict(z_t, t, said.row(len(prompts)))
            d += (wanted - nothing).abs().mean((0, 1)).cpu()
        d = (d / (3 * d.mean()).clamp(min=1e-12)).clamp(max=1.0)
        masks.append((d > threshold).float()[None])
    return torch.stack(masks).to(z_0.device)


def _grown(mask: Tensor, part: float) -> Tensor:
    """The mask (n, 1, h, w) grown by a part of its larger side."""
    by = round(part * max(mask.shape[-2:]))
    return F.max_pool2d(mask, 2 * by + 1, 1, by) if by else mask


def _check(mask: Tensor) -> None:
    for image, one in enumerate(mask):
        if not one.any() or one.all():
            kind = "leaves everything" if one.all() else "leaves nothing"
            raise MaskError(
                f"The mask of image {image} {kind} to the prompt, so nothing is blended. Give a "
                "mask, or another threshold or grow."
            )
