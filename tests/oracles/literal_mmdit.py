"""Mutual self-attention in joint attention written out literally, for comparison only.

Every attention of an SD3 or FLUX transformer is recomputed here with an explicit softmax, row by
row and head by head, places as complex numbers. Keys and values of the picture's tokens are
exchanged as the docs write it. It shares nothing with the package.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class LiteralJoint:
    """Replaces every processor of a transformer; throw the transformer away afterwards.

    reads[i]: the images that image i of a branch reads, [i] for plain attention. masks: one
    (h, w) 0/1 tensor per image. words: numbers of text tokens per image, for masks by words.
    """

    def __init__(
        self,
        transformer: Any,
        *,
        reads: Sequence[Sequence[int]],
        grid: tuple[int, int],
        start_step: int = 0,
        layers: Sequence[int] | None = None,
        form: str = "replace",
        strength: float = 1.0,
        positions: str = "same",
        damping: float = 0.3,
        reach: float = 16.0,
        masks: Sequence[Tensor] | None = None,
        words: Sequence[Sequence[int]] | None = None,
        threshold: float = 0.1,
    ) -> None:
        self.reads, self.grid, self.form, self.strength = reads, grid, form, strength
        self.start_step, self.positions = start_step, positions
        self.damping, self.reach = damping, reach
        self.masks, self.words, self.threshold = masks, words, threshold
        self.flux = hasattr(transformer, "single_transformer_blocks")
        blocks = [*transformer.transformer_blocks]
        blocks += [*transformer.single_transformer_blocks] if self.flux else []
        self.layers = range(len(blocks)) if layers is None else layers
        self.match_layer = len(blocks) // 2
        for number, block in enumerate(blocks):
            for part in (block.attn, getattr(block, "attn2", None)):
                if part is not None:
                    first = part is block.attn
                    joined = self.flux and not hasattr(part, "to_add_out")
                    part.set_processor(_Explicit(self, number, first=first, joined=joined))
        self.axes = transformer.pos_embed.axes_dim if self.flux else ()
        self.step, self.call, self.time, self.text = -1, 0, -1.0, 0
        self.angles: Tensor | None = None
        self.features: list[Tensor] = []
        self.maps: list[Tensor] = []
        self.matches: dict[tuple[int, int], list[int]] = {}
        self.old_features: Tensor | None = None
        self.old_maps: Tensor | None = None
        transformer.register_forward_pre_hook(self.begin, with_kwargs=True)

    def begin(self, _module: nn.Module, _args: object, given: dict[str, Any]) -> None:
        time = float(given["timestep"].flatten()[0])
        if time == self.time:
            self.call += 1
        else:
            self.step, self.call, self.time = self.step + 1, 0, time
            self.old_features = self.features[0] if self.features else None
            self.old_maps = torch.stack(self.maps).mean(0) if self.maps else None
            self.features, self.maps, self.matches = [], [], {}
        self.text = given["encoder_hidden_states"].shape[1]
        if self.flux:
            places = torch.cat([given["txt_ids"], given["img_ids"]]).double()
            self.angles = torch.cat(
                [
                    places[:, axis, None] * 10000.0 ** (-torch.arange(0, n, 2) / n).double()
                    for axis, n in enumerate(self.axes)
                ],
                dim=1,
            )

    def match(self, target: int, source: int) -> list[int]:
        """For every token of the source the target's token most like it."""
        if (target, source) not in self.matches:
            assert self.old_features is not None
            self.matches[target, source] = [
                int(
                    torch.stack(
                        [cosine(token, other) for other in self.old_features[target]]
                    ).argmax()
                )
                for token in self.old_features[source]
            ]
        return self.matches[target, source]

    def kept(self, image: int) -> Tensor:
        """One flat 0/1 mask per image."""
        if self.masks is not None:
            mask = self.masks[image].float()
            rows = [int(i * mask.shape[0] / self.grid[0]) for i in range(self.grid[0])]
            columns = [int(j * mask.shape[1] / self.grid[1]) for j in range(self.grid[1])]
            return mask[rows][:, columns].flatten()
        assert self.old_maps is not None
        soft = self.old_maps[image]
        soft = (soft - soft.min()) / (soft.max() - soft.min())
        return (soft >= self.threshold).float()


class _Explicit:
    _attention_backend = None
    _parallel_config = None

    def __init__(self, edit: LiteralJoint, layer: int, *, first: bool, joined: bool) -> None:
        self.edit, self.layer, self.first, self.joined = edit, layer, first, joined

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: object = None,
        image_rotary_emb: object = None,
    ) -> Any:
        edit = self.edit
        text = edit.text if self.joined or encoder_hidden_states is not None else 0
        parts = self.project(attn, hidden_states, encoder_hidden_states, text)
        images = len(edit.reads)
        rows = hidden_states.shape[0]
        inside = text if self.joined else 0
        if self.layer == edit.match_layer and self.first and edit.call == 0:
            edit.features.append(hidden_states[-images:, inside:])
        out = [self.attend(parts, row, row % images, text) for row in range(rows)]
        if edit.words is not None and self.layer in edit.layers and self.first and edit.call == 0:
            first = rows - images
            edit.maps.append(
                torch.stack(
                    [self.looked(parts, first + i, edit.words[i], text) for i in range(images)]
                )
            )
        image = torch.stack([one[0] for one in out])
        told = torch.stack([one[1] for one in out])
        if self.joined:
            return torch.cat([told, image], dim=1)
        image = attn.to_out[0](image)
        if encoder_hidden_states is None:
            return image
        return image, told if attn.context_pre_only else attn.to_add_out(told)

    def project(
        self, attn: Any, hidden: Tensor, states: Tensor | None, text: int
    ) -> dict[str, Tensor]:
        """Queries, keys and values (rows, heads, tokens, d) of picture and text, normed."""
        heads = attn.heads

        def split(projected: Tensor, norm: Any) -> Tensor:
            made = torch.stack(projected.chunk(heads, dim=-1), dim=1)
            return made if norm is None else norm(made)

        q, k = split(attn.to_q(hidden), attn.norm_q), split(attn.to_k(hidden), attn.norm_k)
        v = split(attn.to_v(hidden), None)
        if self.joined:
            return {
                "q": q[:, :, text:], "k": k[:, :, text:], "v": v[:, :, text:],
                "q_t": q[:, :, :text], "k_t": k[:, :, :text], "v_t": v[:, :, :text],
            }  # fmt: skip
        parts = {"q": q, "k": k, "v": v}
        if states is None:
            return parts | {f"{name}_t": parts[name][:, :, :0] for name in "qkv"}
        return parts | {
            "q_t": split(attn.add_q_proj(states), attn.norm_added_q),
            "k_t": split(attn.add_k_proj(states), attn.norm_added_k),
            "v_t": split(attn.add_v_proj(states), None),
        }

    def attend(
        self, parts: dict[str, Tensor], row: int, image: int, text: int
    ) -> tuple[Tensor, Tensor]:
        """The output (tokens, inner) of one row, picture and text, before output projections."""
        edit = self.edit
        sources = list(edit.reads[image])
        plain = self.row(parts, row, [(row, None)], text)
        on = edit.step >= edit.start_step and self.layer in edit.layers and sources != [image]
        if not on:
            return plain
        base = row - image
        members = [(base + s, (image, s)) for s in sources]
        keep = None
        if edit.masks is not None or edit.words is not None:
            keep = [edit.kept(s) for s in sources] + ([edit.kept(image)] * (edit.form == "union"))
        if edit.form == "union":
            members.append((row, None))
        mask = None if keep is None else torch.cat(keep)
        own = None if keep is None else edit.kept(image)
        made = self.row(parts, row, members, text, mask, own)
        return tuple(p + edit.strength * (m - p) for p, m in zip(plain, made, strict=True))

    def row(
        self,
        parts: dict[str, Tensor],
        row: int,
        members: list[tuple[int, tuple[int, int] | None]],
        text: int,
        mask: Tensor | None = None,
        own: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        heads = parts["q"].shape[1]
        pieces, told = [], []
        for head in range(heads):
            q = self.placed(parts["q"][row, head], text)
            q_t = self.placed(parts["q_t"][row, head], 0)
            k = [self.placed(parts["k_t"][row, head], 0)]
            v = [parts["v_t"][row, head]]
            for number, pair in members:
                k.append(self.read(parts["k"][number, head], text, pair))
                v.append(parts["v"][number, head])
            keys, values = torch.cat(k), torch.cat(v)
            told.append(softmax(q_t, keys) @ values)
            if mask is None or own is None:
                pieces.append(softmax(q, keys) @ values)
                continue
            free = torch.ones(k[0].shape[0])
            f_o = softmax(q, keys, torch.cat([free, mask])) @ values
            f_b = softmax(q, keys, torch.cat([free, 1 - mask])) @ values
            pieces.append(f_o * own[:, None] + f_b * (1 - own[:, None]))
        return torch.cat(pieces, dim=-1), torch.cat(told, dim=-1)

    def looked(self, parts: dict[str, Tensor], row: int, words: Sequence[int], text: int) -> Tensor:
        total = torch.zeros(parts["k"].shape[2])
        heads = parts["q"].shape[1]
        for head in range(heads):
            keys = torch.cat(
                [
                    self.placed(parts["k_t"][row, head], 0),
                    self.placed(parts["k"][row, head], text),
                ]
            )
            q_t = self.placed(parts["q_t"][row, head], 0)
            for word in words:
                total = total + softmax(q_t[word : word + 1], keys)[0, text:] / heads
        return total

    def placed(self, x: Tensor, first: int) -> Tensor:
        """Turned by its own places: tokens `first`, `first + 1`, ..."""
        angles = self.edit.angles
        return x if angles is None else turn(x, angles[first : first + x.shape[0]])

    def read(self, keys: Tensor, text: int, pair: tuple[int, int] | None) -> Tensor:
        """Keys of a picture that is read, at the places that the policy gives them."""
        edit = self.edit
        if pair is None or edit.positions == "same" or edit.angles is None:
            return self.placed(keys, text)
        places = edit.angles[text:]
        if edit.positions == "none":
            return turn(keys, torch.zeros_like(places))
        if edit.positions == "damped":
            return turn(keys, places, self.damping())
        if edit.old_features is None:
            return self.placed(keys, text)
        return turn(keys, places[edit.match(*pair)])

    def damping(self) -> Tensor:
        factors = []
        for axis, n in enumerate(self.edit.axes):
            for m in range(n // 2):
                turns = 2 * math.pi / 10000.0 ** (-2 * m / n)
                fast = axis > 0 and turns < self.edit.reach
                factors.append(self.edit.damping if fast else 1.0)
        return torch.tensor(factors)


def turn(x: Tensor, angles: Tensor, factors: Tensor | None = None) -> Tensor:
    """Pairs of channels as complex numbers, times exp(i angle)."""
    pairs = torch.view_as_complex(x.double().reshape(*x.shape[:-1], -1, 2).contiguous())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    if factors is not None:
        turned = turned * factors.double()
    return torch.view_as_real(turned).flatten(-2).float()


def cosine(one: Tensor, other: Tensor) -> Tensor:
    return one @ other / (one.norm() * other.norm())


def softmax(q: Tensor, k: Tensor, kept: Tensor | None = None) -> Tensor:
    scores = q @ k.T / math.sqrt(q.shape[-1])
    if kept is not None:
        scores = torch.where(kept[None] > 0.5, scores, torch.tensor(-torch.inf))
    weights = (scores - scores.max(dim=-1, keepdim=True).values).exp()
    return weights / weights.sum(dim=-1, keepdim=True)
