"""The rivals written out literally, for comparison only.

Every attention of the U-Net is recomputed with an explicit softmax and edited as the papers write
it. Rows are [unconditional | conditional], image 0 is the source of all others. It counts calls and
keeps whole attention maps, as the papers' codes do; it shares nothing with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Rival:
    """Replaces every attention of a U-Net; throw the U-Net away afterwards.

    Subclasses edit `cross` probabilities (rows, heads, pixels, words) and the `own` queries, keys
    and values (rows, heads, pixels, channels) of self-attention.
    """

    def __init__(self, unet: nn.Module, *, images: int, steps: int, branches: int = 2) -> None:
        self.images, self.steps, self.branches = images, steps, branches
        self.step = self.calls = self.layer = 0
        modules = [(n, m) for n, m in unet.named_modules() if n.endswith(("attn1", "attn2"))]
        self.total = len(modules)
        for name, module in modules:
            module.set_processor(_Explicit(self, name))

    @property
    def conditional(self) -> int:
        return (self.branches - 1) * self.images

    def cross(self, name: str, probs: Tensor) -> Tensor:
        return probs

    def own(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return softmax(q, k) @ v

    def between_steps(self) -> None:
        pass

    def after(self, cross: bool) -> None:
        self.calls += 1
        self.layer += not cross
        if self.calls == self.total:
            self.between_steps()
            self.calls = self.layer = 0
            self.step += 1


def softmax(q: Tensor, k: Tensor) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    scores = scores - scores.max(dim=-1, keepdim=True).values
    return scores.exp() / scores.exp().sum(dim=-1, keepdim=True)


class _Explicit:
    def __init__(self, rival: Rival, name: str) -> None:
        self.rival, self.name = rival, name

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: object
    ) -> Tensor:
        rival = self.rival
        cross = encoder_hidden_states is not None
        text = encoder_hidden_states if cross else hidden_states
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for x in (attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text))
        )
        if cross:
            out = rival.cross(self.name, softmax(q, k)) @ v
        else:
            out = rival.attend(*rival.own(q, k, v))
        rival.after(cross)
        out = out.transpose(1, 2).flatten(2)
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


class PromptToPrompt(Rival):
    """`edit(image, base, own)` is one target's edit of (heads, pixels, words); `alpha` is
    (steps + 1, images, words); `blend_words` (images, words) 0/1 or None.
    """

    def __init__(
        self,
        unet: nn.Module,
        *,
        edit: Callable[[int, Tensor, Tensor], Tensor],
        alpha: Tensor,
        self_part: float,
        self_tokens: int = 256,
        blend_words: Tensor | None = None,
        blend_tokens: int = 256,
        blend_grid: tuple[int, int] = (16, 16),
        **kwargs: Any,
    ) -> None:
        super().__init__(unet, **kwargs)
        self.edit, self.alpha = edit, alpha
        self.self_steps, self.self_tokens = int(self.steps * self_part), self_tokens
        self.blend_words, self.blend_tokens = blend_words, blend_tokens
        self.blend_grid = blend_grid
        self.step_store: list[Tensor] = []
        self.store: list[Tensor] = []

    def cross(self, name: str, probs: Tensor) -> Tensor:
        probs = probs.clone()
        c = self.conditional
        base = probs[c]
        for image in range(1, self.images):
            own = probs[c + image]
            a = self.alpha[self.step, image]
            probs[c + image] = self.edit(image, base, own) * a + (1 - a) * own
        if probs.shape[2] == self.blend_tokens and "mid" not in name:
            self.step_store.append(probs[c:].clone())
        return probs

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        probs = softmax(q, k)
        if self.step < self.self_steps and q.shape[2] <= self.self_tokens:
            c = self.conditional
            probs[c + 1 :] = probs[c : c + 1]
        return probs @ v

    def between_steps(self) -> None:
        if self.store:
            self.store = [a + b for a, b in zip(self.store, self.step_store, strict=True)]
        else:
            self.store = self.step_store
        self.step_store = []

    def blend(self, latents: Tensor, threshold: float = 0.3) -> Tensor:
        """(images, c, h, w) after a step of the scheduler."""
        assert self.blend_words is not None
        grid = self.blend_grid
        maps = torch.cat([m.unflatten(2, grid) for m in self.store], dim=1)
        words = self.blend_words[:, None, None, None, :]
        maps = (maps * words).sum(-1).mean(1)[:, None]
        mask = nn.functional.max_pool2d(maps, (3, 3), (1, 1), padding=(1, 1))
        mask = nn.functional.interpolate(mask, size=latents.shape[2:])
        mask = mask / mask.max(2, keepdim=True)[0].max(3, keepdim=True)[0]
        chosen = (mask > threshold).float()
        chosen = (chosen[:1] + chosen).clamp(max=1)
        return latents[:1] + chosen * (latents - latents[:1])


class PlugAndPlay(Rival):
    """Features of `block` in the first `feature_steps`, queries and keys of `layers`."""

    def __init__(
        self,
        unet: Any,
        *,
        feature_steps: int,
        attention_steps: int,
        layers: range,
        block: str = "up_blocks.1.resnets.1",
        **kwargs: Any,
    ) -> None:
        super().__init__(unet, **kwargs)
        self.feature_steps, self.attention_steps = feature_steps, attention_steps
        self.layers = layers
        resnet = unet.get_submodule(block)
        resnet.forward = lambda x, temb: self.resnet(resnet, x, temb)

    def inject(self, rows: Tensor) -> Tensor:
        rows = rows.clone()
        source = rows[self.conditional].clone()
        for branch in range(self.branches):
            for image in range(1, self.images):
                rows[branch * self.images + image] = source
        return rows

    def resnet(self, block: Any, x: Tensor, temb: Tensor) -> Tensor:
        h = block.conv1(nn.functional.silu(block.norm1(x)))
        h = h + block.time_emb_proj(nn.functional.silu(temb))[:, :, None, None]
        h = block.conv2(nn.functional.silu(block.norm2(h)))
        if self.step < self.feature_steps:
            h = self.inject(h)
        x = x if block.conv_shortcut is None else block.conv_shortcut(x)
        return (x + h) / block.output_scale_factor

    def own(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.step < self.attention_steps and self.layer in self.layers:
            q, k = self.inject(q), self.inject(k)
        return q, k, v


class StyleAligned(Rival):
    """Every picture normalises to, and also reads, image 0 of its branch."""

    def own(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        def style(x: Tensor) -> Tensor:
            return (
                x.unflatten(0, (self.branches, -1))[:, :1]
                .expand(-1, self.images, -1, -1, -1)
                .flatten(0, 1)
            )

        def adain(x: Tensor) -> Tensor:
            out = torch.empty_like(x)
            y = style(x)
            for row in range(x.shape[0]):
                for head in range(x.shape[1]):
                    one, two = x[row, head], y[row, head]
                    sigma = (one.var(0) + 1e-5).sqrt()
                    out[row, head] = (one - one.mean(0)) / sigma * (two.var(0) + 1e-5).sqrt()
                    out[row, head] += two.mean(0)
            return out

        q, k_own = adain(q), adain(k)
        return q, torch.cat([k_own, style(k)], dim=2), torch.cat([v, style(v)], dim=2)


class Unified(PromptToPrompt):
    """Rigid self-attention in both branches first, mutual from then on in late layers."""

    def __init__(self, *args: Any, rigid_steps: int, start_layer: int, **kwargs: Any) -> None:
        super().__init__(*args, self_part=0.0, **kwargs)
        self.rigid_steps, self.start_layer = rigid_steps, start_layer

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def source(x: Tensor) -> Tensor:
            return (
                x.unflatten(0, (self.branches, -1))[:, :1]
                .expand(-1, self.images, -1, -1, -1)
                .flatten(0, 1)
            )

        if self.step < self.rigid_steps:
            return softmax(source(q), source(k)) @ v
        if self.layer >= self.start_layer:
            return softmax(q, source(k)) @ source(v)
        return softmax(q, k) @ v
