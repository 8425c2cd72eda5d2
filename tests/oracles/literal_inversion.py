"""Real-picture editing of the official code written out literally, for comparison only.

The loops and formulas of its `invert`, `next_step`, `step` and `__call__` with
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
