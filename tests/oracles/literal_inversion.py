"""Editing of real pictures written out literally, for comparison only: official code, TurboEdit.

The loops and formulas of the official `invert`, `next_step`, `step` and `__call__` with
`ref_intermediate_latents`, timestep by timestep; guidance as there, rows [uncond | cond]. It shares
nothing with the package.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Unet = Callable[[Tensor, int, Tensor], Tensor]
"""(rows, timestep, text of the rows) to the predicted noise."""


class LiteralPipeline:
    """The official pipeline's arithmetic around a U-Net that is handed in."""

    def __init__(
        self, unet: Unet, alphas: Tensor, final_alpha: float, timesteps: list[int]
    ) -> None:
        self.unet = unet
        self.alphas = alphas.double()
        self.final_alpha = final_alpha
        self.timesteps = timesteps
        self.gap = 1000 // len(timesteps)

    def next_step(self, noise: Tensor, timestep: int, x: Tensor) -> Tensor:
        next_step = timestep
        timestep = min(timestep - self.gap, 999)
        alpha = float(self.alphas[timestep]) if timestep >= 0 else self.final_alpha
        alpha_next = float(self.alphas[next_step])
        pred_x0 = (x - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        return alpha_next**0.5 * pred_x0 + (1 - alpha_next) ** 0.5 * noise

    def step(self, noise: Tensor, timestep: int, x: Tensor) -> Tensor:
        previous = timestep - self.gap
        alpha = float(self.alphas[timestep])
        alpha_prev = float(self.alphas[previous]) if previous > 0 else self.final_alpha
        pred_x0 = (x - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        return alpha_prev**0.5 * pred_x0 + (1 - alpha_prev) ** 0.5 * noise

    def guided(
        self, x: Tensor, timestep: int, text: Tensor, nothing: Tensor, scale: float
    ) -> Tensor:
        noise = self.unet(torch.cat([x, x]), timestep, torch.cat([nothing, text]))
        uncond, cond = noise.chunk(2)
        return uncond + scale * (cond - uncond)

    def invert(self, start: Tensor, text: Tensor, nothing: Tensor, scale: float) -> list[Tensor]:
        latents, found = start, [start]
        for timestep in reversed(self.timesteps):
            noise = self.guided(latents, timestep, text, nothing, scale)
            latents = self.next_step(noise, timestep, latents)
            found.append(latents)
        return found

    def edit(
        self,
        latents: Tensor,
        text: Tensor,
        nothing: Tensor,
        scale: float,
        ref_intermediate_latents: list[Tensor] | None,
    ) -> Tensor:
        for i, timestep in enumerate(self.timesteps):
            if ref_intermediate_latents is not None:
                latents_ref = ref_intermediate_latents[-1 - i]
                _, latents_cur = latents.chunk(2)
                latents = torch.cat([latents_ref, latents_cur])
            noise = self.guided(latents, timestep, text, nothing, scale)
            latents = self.step(noise, timestep, latents)
        return latents


def turbo_edit(
    unet: Unet,
    alphas: list[float],
    timesteps: list[int],
    z_0: Tensor,
    noise: Tensor,
    words: tuple[Tensor, Tensor],
    shift: int,
    w: float,
) -> tuple[list[Tensor], Tensor]:
    """The noised pictures and the edit of TurboEdit (arXiv 2408.00735), without its last clipping.

    Pictures are noised as at t - shift and denoised as at t. `alphas` are those of all timesteps,
    `words` those of source and target; after the last timestep comes timestep 0.
    """

    def mean(x: Tensor, i: int, text: Tensor) -> Tensor:
        """mu of DDPM's posterior (Ho et al., Eq. 7) from the predicted picture."""
        alpha = alphas[timesteps[i]]
        alpha_prev = alphas[timesteps[i + 1] if i + 1 < len(timesteps) else 0]
        beta = 1 - alpha / alpha_prev
        x_0 = (x - (1 - alpha) ** 0.5 * unet(x, timesteps[i], text)) / alpha**0.5
        of_x_0 = alpha_prev**0.5 * beta / (1 - alpha)
        of_x = (alpha / alpha_prev) ** 0.5 * (1 - alpha_prev) / (1 - alpha)
        return of_x_0 * x_0 + of_x * x

    xs = []
    for i, timestep in enumerate(timesteps):
        t = timestep - shift
        noised = alphas[t] ** 0.5 * z_0 + (1 - alphas[t]) ** 0.5 * noise[i] if t > 0 else z_0
        xs.append(noised)
    xs.append(z_0)
    source, target = words
    edited = xs[0]
    for i in range(len(timesteps)):
        own = mean(edited, i, source)
        cross_trajectory = own - mean(xs[i], i, source)
        cross_prompt = mean(edited, i, target) - own
        edited = xs[i + 1] + cross_trajectory + w * cross_prompt
    return xs, edited
