"""Mutual self-attention written out literally, for comparison only.

Every attention of the U-Net is recomputed here with an explicit softmax, row by row and head by
head, and the edit is made on q, k and v as the paper writes it. It counts calls, assumes a fixed
layout and keeps whole attention maps, as the paper's code does; it shares nothing with the package.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn


class Literal:
    """Replaces every attention of a U-Net; throw the U-Net away afterwards.

    reads[i]: the images that image i of a branch reads, [i] for plain attention.
    masks: one (h, w) 0/1 tensor per image, or None. tokens: token numbers per image for automatic
    masks, or None. branches: 2 with guidance, rows [uncond | cond], 1 without.
    """

    def __init__(
        self,
        unet: nn.Module,
        *,
        reads: Sequence[Sequence[int]],
        branches: int,
        latent: tuple[int, int],
        start_step: int = 0,
        start_layer: int = 0,
        form: str = "replace",
        masks: Sequence[Tensor] | None = None,
        tokens: Sequence[Sequence[int]] | None = None,
        threshold: float = 0.1,
        strength: float = 1.0,
    ) -> None:
        self.reads, self.branches, self.latent = reads, branches, latent
        self.start_step, self.start_layer, self.form = start_step, start_layer, form
        self.masks, self.tokens, self.threshold = masks, tokens, threshold
        self.quarter = (math.ceil(latent[0] / 4), math.ceil(latent[1] / 4))
        self.strength = strength
        self.step = 0
        self.self_calls = 0
        self.attention_calls = 0
        self.maps: list[Tensor] = []
        modules = [(n, m) for n, m in unet.named_modules() if n.endswith(("attn1", "attn2"))]
        self.total = len(modules)
        for _, module in modules:
            module.set_processor(_Explicit(self))

    def after_attention(self) -> None:
        self.attention_calls += 1
        if self.attention_calls == self.total:
            self.attention_calls = self.self_calls = 0
            self.step += 1
            self.maps = []


class _Explicit:
    def __init__(self, edit: Literal) -> None:
        self.edit = edit

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **_: object,
    ) -> Tensor:
        edit = self.edit
        is_cross = encoder_hidden_states is not None
        context = encoder_hidden_states if is_cross else hidden_states
        q, k, v = attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context)
        heads = attn.heads
        if is_cross:
            out, probs = plain_rows(q, k, v, heads)
            if q.shape[1] == edit.quarter[0] * edit.quarter[1]:
                edit.maps.append(probs)
        else:
            layer = edit.self_calls
            edit.self_calls += 1
            on = edit.step >= edit.start_step and layer >= edit.start_layer
            out = edited_rows(edit, q, k, v, heads) if on else plain_rows(q, k, v, heads)[0]
        edit.after_attention()
        return attn.to_out[1](attn.to_out[0](out)) / attn.rescale_output_factor


def one(q: Tensor, k: Tensor, v: Tensor, extra: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d)) v for one row and one head, and the probabilities."""
    scores = q @ k.T / math.sqrt(q.shape[-1])
    if extra is not None:
        scores = scores + extra
    scores = scores - scores.max(dim=-1, keepdim=True).values
    probs = scores.exp()
    probs = probs / probs.sum(dim=-1, keepdim=True)
    return probs @ v, probs


def plain_rows(q: Tensor, k: Tensor, v: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    out, maps = [], []
    for row in range(q.shape[0]):
        pieces = [
            one(a, b, c)
            for a, b, c in zip(
                q[row].chunk(heads, -1),
                k[row].chunk(heads, -1),
                v[row].chunk(heads, -1),
                strict=True,
            )
        ]
        out.append(torch.cat([piece[0] for piece in pieces], dim=-1))
        maps.append(torch.stack([piece[1] for piece in pieces]).mean(0))
    return torch.stack(out), torch.stack(maps)


def edited_rows(edit: Literal, q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    images = len(edit.reads)
    foreground = image_masks(edit, q.shape[1])
    out = plain_rows(q, k, v, heads)[0].clone()
    for branch in range(edit.branches):
        for image, reads in enumerate(edit.reads):
            if list(reads) == [image]:
                continue
            row = branch * images + image
            members = list(reads) + ([image] if edit.form == "union" else [])
            keys = torch.cat([k[branch * images + source] for source in members])
            values = torch.cat([v[branch * images + source] for source in members])
            pieces = []
            for a, b, c in zip(
                q[row].chunk(heads, -1), keys.chunk(heads, -1), values.chunk(heads, -1), strict=True
            ):
                if foreground is None:
                    pieces.append(one(a, b, c)[0])
                    continue
                m_s = torch.cat([foreground[source] for source in members])
                m = foreground[image][:, None]
                low = torch.finfo(q.dtype).min
                f_o = one(a, b, c, torch.where(m_s == 1, 0.0, low)[None])[0]
                f_b = one(a, b, c, torch.where(m_s == 0, 0.0, low)[None])[0]
                pieces.append(f_o * m + f_b * (1 - m))
            edited = torch.cat(pieces, dim=-1)
            out[row] = out[row] + edit.strength * (edited - out[row])
    return out


def image_masks(edit: Literal, tokens: int) -> list[Tensor] | None:
    """One flat 0/1 mask per image at this layer, or None."""
    scale = next(
        s
        for s in (1, 2, 4, 8)
        if math.ceil(edit.latent[0] / s) * math.ceil(edit.latent[1] / s) == tokens
    )
    size = (math.ceil(edit.latent[0] / scale), math.ceil(edit.latent[1] / scale))
    if edit.masks is not None:
        return [nearest(mask.float(), size).flatten().round() for mask in edit.masks]
    if edit.tokens is None or not edit.maps:
        return None
    mean = torch.stack(edit.maps).mean(0)  # rows, queries, words
    result = []
    for image, chosen in enumerate(edit.tokens):
        row = (edit.branches - 1) * len(edit.reads) + image
        soft = mean[row][:, list(chosen)].sum(-1).reshape(edit.quarter)
        soft = (soft - soft.min()) / (soft.max() - soft.min())
        result.append((nearest(soft, size) >= edit.threshold).float().flatten())
    return result


def nearest(picture: Tensor, size: tuple[int, int]) -> Tensor:
    rows = [int(i * picture.shape[0] / size[0]) for i in range(size[0])]
    columns = [int(j * picture.shape[1] / size[1]) for j in range(size[1])]
    return picture[rows][:, columns]


def layer_order(unet: nn.Module, call: Callable[[], object]) -> list[str]:
    """Names of the self-attention modules in the order in which one forward pass calls them."""
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: order.append(name))
        for name, module in unet.named_modules()
        if name.endswith("attn1")
    ]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    return order
