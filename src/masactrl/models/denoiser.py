"""A small port to the networks: words, pictures and noise predictions as tensors.

Four verbs are all that inversion and editing know of a pipeline of diffusers. The network is called
through the pipeline that was given, so that a control attached to it acts; latents between the
calls are float32 whatever the network computes in, for an inversion adds up small steps.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.networks import network_of
from masactrl.diffusion.noise import NoiseKind, NoiseSchedule, Spacing, flow_schedule
from masactrl.errors import MasaCtrlError, UnsupportedPipeline
from masactrl.models import joint
from masactrl.models.loading import ddim_like
from masactrl.models.weighted_text import weighed
from masactrl.settings.prompt_weights import without_weights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from masactrl.models.loading import Pipeline

__all__ = ["Denoiser", "Text"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Text:
    """Encoded prompts: what the network is conditioned on.

    Attributes:
        hidden: (rows, words, width).
        pooled: (rows, width) for SDXL, SD3 and FLUX, else None.
    """

    hidden: Tensor
    pooled: Tensor | None = None

    def row(self, number: int) -> Text:
        """Return one row, as a text of one."""
        pooled = None if self.pooled is None else self.pooled[number : number + 1]
        return Text(hidden=self.hidden[number : number + 1], pooled=pooled)

    def rows(self, which: slice) -> Text:
        """Return several rows."""
        pooled = None if self.pooled is None else self.pooled[which]
        return Text(hidden=self.hidden[which], pooled=pooled)

    def with_hidden(self, hidden: Tensor) -> Text:
        """Return the same text with other hidden states of equal shape."""
        return replace(self, hidden=hidden.to(self.hidden))

    @classmethod
    def cat(cls, texts: Sequence[Text]) -> Text:
        """Return the rows of all texts one after the other."""
        pooled = [text.pooled for text in texts if text.pooled is not None]
        return cls(
            hidden=torch.cat([text.hidden for text in texts]),
            pooled=torch.cat(pooled) if pooled else None,
        )


class Denoiser:
    """The networks of one pipeline; `passes` counts the rows that went through the denoiser.

    A row is one picture in one guidance branch at one step. For one run: make another one when the
    pipeline was moved to another device.

    Args:
        pipeline: Stable Diffusion, SDXL, SD3 or FLUX; is left as it is.

    Raises:
        UnsupportedPipeline: it has no network that we know.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        self._family, network = network_of(pipeline)
        self._network: Any = network
        self._pipeline: Any = pipeline
        self.passes = 0

    @property
    def kind(self) -> NoiseKind:
        """How picture and noise are mixed."""
        return self._family.noise

    @cached_property
    def device(self) -> torch.device:
        """Where the networks run, found once: diffusers walks through every module to say it."""
        device: torch.device = self._pipeline._execution_device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """What the network computes in."""
        dtype: torch.dtype = self._network.dtype
        return dtype

    @property
    def factor(self) -> int:
        """Pixels per latent, along a side."""
        return int(self._pipeline.vae_scale_factor)

    @property
    def multiple(self) -> int:
        """Of how many pixels the sides of a picture are a multiple."""
        return joint.multiple_of(self._pipeline)

    @property
    def reads_guidance(self) -> bool:
        """Whether the network is told the guidance scale instead of being called twice."""
        return joint.reads_guidance(self._pipeline)

    def schedule(
        self, steps: int, *, spacing: Spacing | None = None, size: tuple[int, int] = (0, 0)
    ) -> NoiseSchedule:
        """Return the noise levels of a run of that many steps of DDIM, or of Euler's rule.

        Args:
            steps: N.
            spacing: of DDIM's timesteps; None is the model's own. "trailing" ones are those of the
                distillation where the scheduler is LCM's.
            size: of the latents, (h, w); the levels of some flows depend on it.
        """
        scheduler = self._pipeline.scheduler
        if self.kind == "flow":
            patches = (size[0] // 2) * (size[1] // 2)
            listed = self._family.name == "flux"
            return flow_schedule(scheduler, steps, patches=patches, listed=listed)
        if spacing == "trailing" and type(scheduler).__name__ == "LCMScheduler":
            own = copy.deepcopy(scheduler)
            own.set_timesteps(steps, device="cpu")
            asked = tuple(own.timesteps.tolist())
            return NoiseSchedule.from_scheduler(ddim_like(scheduler), steps, timesteps=asked)
        return NoiseSchedule.from_scheduler(ddim_like(scheduler), steps, spacing=spacing)

    def alpha_bar(self, timesteps: Sequence[float]) -> tuple[float, ...]:
        """Return alpha_bar at timesteps of the training; 1, no noise, at 0 and below."""
        levels = ddim_like(self._pipeline.scheduler).alphas_cumprod.double()
        return tuple(float(levels[int(t)]) if t > 0 else 1.0 for t in timesteps)

    @contextmanager
    def timetable(self, schedule: NoiseSchedule) -> Iterator[None]:
        """Show the pipeline's hooks the timesteps of a run inside the `with` block.

        An attached control reads its step from the scheduler's timesteps; the pipeline's own
        scheduler is set aside meanwhile and put back unchanged.
        """
        pipeline = self._pipeline
        own = pipeline.scheduler
        shown: Any = copy.copy(own) if self.kind == "flow" else ddim_like(own)
        shown.num_inference_steps = schedule.steps
        shown.timesteps = torch.tensor(schedule.timesteps, device="cpu")
        if self.kind == "flow":
            shown.sigmas = torch.tensor(schedule.sigma, dtype=torch.float32, device="cpu")
            shown._step_index = shown._begin_index = None  # of whoever ran the pipeline before
        pipeline.scheduler = shown
        try:
            yield
        finally:
            pipeline.scheduler = own

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Text:
        """Return the encoded prompts, one row each; their weights act, see `weighted_text`.

        An empty prompt is the model's own "nothing": for models that were trained so (SDXL's base,
        `force_zeros_for_empty_prompt`) zeros, else the encoding of no words.
        """
        pipeline, said = self._pipeline, [without_weights(prompt) for prompt in prompts]
        if self._family.joint:
            words, beside = joint.encode_words(pipeline, said, self.device)
            return Text(hidden=words.to(self.dtype), pooled=beside.to(self.dtype))
        options = {"device": self.device, "num_images_per_prompt": 1}
        encoded = pipeline.encode_prompt(prompt=said, do_classifier_free_guidance=False, **options)
        hidden = weighed(pipeline, prompts, encoded[0]).to(self.dtype)
        pooled = encoded[2].to(self.dtype) if len(encoded) > 2 else None
        if pooled is not None and pipeline.config.get("force_zeros_for_empty_prompt", False):
            any_words = torch.tensor([bool(one) for one in said], device="cpu").to(hidden)
            hidden, pooled = hidden * any_words[:, None, None], pooled * any_words[:, None]
        return Text(hidden=hidden, pooled=pooled)

    @torch.no_grad()
    def encode_image(self, pixels: Tensor) -> Tensor:
        """Return the mean latents (n, c, h/8, w/8), scaled, of pictures (n, 3, h, w) in [-1, 1].

        The mean and no sample, as in the official code: an edit begins where the picture is. A VAE
        that knows no distribution (AutoencoderTiny, VQModel) says its latents at once.

        Raises:
            UnsupportedPipeline: the VAE makes latents that are not the network's.
        """
        with self._vae() as vae:
            latents = _latents_of(vae, vae.encode(pixels.to(self.device, vae.dtype)))
            mean, std = _statistics(vae)
        channels = joint.latent_channels(self._pipeline)
        wanted = (channels, *(side // self.factor for side in pixels.shape[2:]))
        if tuple(latents.shape[1:]) != wanted:
            made, needed = (" x ".join(map(str, size)) for size in (latents.shape[1:], wanted))
            raise UnsupportedPipeline(
                f"The VAE of this pipeline ({type(vae).__name__}) makes latents of {made} where "
                f"the network takes {needed}; give the pipeline the VAE that it was trained with."
            )
        return (_precise(latents) - mean.to(latents.device)) / std.to(latents.device)

    @torch.no_grad()
    def decode_image(self, latents: Tensor) -> Tensor:
        """Return pictures (n, 3, h, w) in about [-1, 1], float32, of latents (n, c, h/8, w/8).

        Raises:
            MasaCtrlError: the VAE made NaN or infinite values, as some do in float16.
        """
        with self._vae() as vae:
            mean, std = _statistics(vae)
            plain = latents * std.to(latents.device) + mean.to(latents.device)
            # One by one: at full size a VAE takes more memory than the network.
            pictures = [
                vae.decode(one.to(self.device, vae.dtype), return_dict=False)[0].float()
                for one in plain.split(1)
            ]
        decoded = torch.cat(pictures)
        if not bool(decoded.isfinite().all()):
            raise MasaCtrlError(
                "The model made NaN or infinite values, as some do in float16; try float32 or "
                "bfloat16."
            )
        return decoded

    def predict(
        self, z: Tensor, timestep: float, text: Text, *, scale: Tensor | None = None
    ) -> Tensor:
        """Return what the network says about latents (rows, c, h, w), float32, of their shape.

        Args:
            z: latents.
            timestep: their noise level, as the network was trained on it.
            text: one row per latent.
            scale: (rows,) guidance scales, for networks that read them.
        """
        self.passes += z.shape[0]
        if self._family.joint:
            if text.pooled is None:
                raise MasaCtrlError("SD3 and FLUX are conditioned on pooled text, too.")
            said = (text.hidden, text.pooled)
            z = z.to(self.device, self.dtype)
            return _precise(joint.call_transformer(self._pipeline, z, timestep, said, scale))
        options: dict[str, Any] = {}
        if self.reads_guidance and scale is not None:
            width = self._network.config.time_cond_proj_dim
            told = self._pipeline.get_guidance_scale_embedding(scale.cpu() - 1, width)
            options["timestep_cond"] = told.to(self.device, self.dtype)
        if text.pooled is not None:
            options["added_cond_kwargs"] = {
                "text_embeds": text.pooled,
                "time_ids": self._sizes(z),
            }
        output: Tensor = self._network(
            z.to(self.device, self.dtype),
            torch.tensor(int(timestep), device=self.device),
            encoder_hidden_states=text.hidden,
            return_dict=False,
            **options,
        )[0]
        return _precise(output)

    def _sizes(self, z: Tensor) -> Tensor:
        """SDXL's size conditions (rows, 6): original size, crop, target size; nothing cropped."""
        height, width = (side * self.factor for side in z.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device="cpu")
        return sizes.repeat(z.shape[0], 1).to(self.device)

    @contextmanager
    def _vae(self) -> Iterator[Any]:
        """The VAE, in float32 where float16 would overflow; afterwards as it was."""
        vae = self._pipeline.vae
        upcast = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        try:
            yield vae.to(dtype=torch.float32) if upcast else vae
        finally:
            if upcast:
                vae.to(dtype=torch.float16)


def _precise(tensor: Tensor) -> Tensor:
    """The tensor in float32 at least."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def _latents_of(vae: Any, encoded: Any) -> Tensor:
    """The latents (n, c, h, w) in what a VAE's `encode` returns: a mode, or plain ones."""
    distribution = getattr(encoded, "latent_dist", None)
    if distribution is not None:
        mode: Tensor = distribution.mode()
        return mode
    latents = getattr(encoded, "latents", None)
    if isinstance(latents, Tensor):
        return latents
    raise UnsupportedPipeline(
        f"The VAE of this pipeline ({type(vae).__name__}) gives neither a distribution nor latents "
        "when it encodes a picture, so no picture can be inverted with it; use an AutoencoderKL or "
        "AutoencoderTiny."
    )


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    """Mean and spread (1, c or 1, 1, 1) of the VAE's latents, which scaled ones are without."""
    spread = 1.0 / vae.config.scaling_factor
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:  # SD3 and FLUX have one shift for all channels
        mean, std = (getattr(vae.config, "shift_factor", None) or 0.0,), (1.0,)
    # On the CPU and of this type whatever torch's defaults are.
    mean, std = (torch.tensor(n, dtype=torch.float32, device="cpu") for n in (mean, std))
    return mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1) * spread
