r"""How a control reaches joint attention, where the tokens of text and picture attend together.

    A(Q, K, V)   with   Q = [Q_text, Q_image],  K = [K_text, K_image],  V = [V_text, V_image]

A target keeps its queries and everything of its text, and reads K_image and V_image of its source:

    A(Q, [K_text, K_image_s], [V_text, V_image_s])

There are two ways in, and the least invasive one that serves is taken:

- **exchange**: as many keys as before. The layer runs as it is, with its processor, backend, LoRA
  and IP-Adapter; while it does, `to_k` and `to_v` are fed the source's hidden states. Keys are at
  the places where they were before (or turned behind `norm_k`), since the layer rotates them after.
- **own**: more keys (union), forbidden keys (masks) or blends. Projections, norms and outputs are
  the layer's, the attention between them is `attend` below; nothing is installed in the layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.attention_processor import JointAttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxAttnProcessor
from torch import Tensor, nn
from torch.nn import functional

from masactrl.attention.call import LayerCall
from masactrl.attention.control_hooks import PlainHook
from masactrl.attention.hooks import SelfAttentionHook, bank_of, split_call
from masactrl.attention.positions import Positions, Rotary, turned
from masactrl.errors import UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.attention.call import Control
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.matching import Matcher
    from masactrl.attention.rows import BatchRows, Part

__all__ = ["JointAttentionHook", "Turn", "check_own_attention"]


class Turn:
    """A position policy at work; `factors` (d,) are those of `damping_of`."""

    def __init__(
        self, positions: Positions, factors: Tensor | None = None, matcher: Matcher | None = None
    ) -> None:
        self._positions, self._factors, self._matcher = positions, factors, matcher

    def __call__(self, keys: Tensor, rotary: Rotary, images: Tensor, k: int) -> Tensor:
        """Keys (rows, tokens, heads, d) that `images` (rows,) read of their k-th source."""
        table = None if self._matcher is None else self._matcher.table
        match = None if table is None else table[images, k]
        return turned(keys, self._positions, rotary, factors=self._factors, match=match)


class TurnHook(PlainHook):
    """Turns keys (rows, tokens, heads, d) behind their norm, while `turn` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.turn: Callable[[Tensor], Tensor] | None = None

    def post_forward(self, _module: nn.Module, output: Any) -> Any:
        """The keys, turned."""
        return output if self.turn is None else self.turn(output)


class FeedHook(PlainHook):
    """Feeds a projection `fed` (rows, tokens, channels), whatever it is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.fed: Tensor | None = None

    def pre_forward(self, _module: nn.Module, *args: object, **kwargs: object) -> object:
        """Replace the input while something is fed."""
        return (args if self.fed is None else (self.fed, *args[1:])), kwargs


class JointAttentionHook(SelfAttentionHook):
    """Puts a control between a joint attention and its block.

    `text` is the number of text tokens of the denoiser call in progress; `own` chooses the second
    way in. Inside, a call's tokens are kept with the picture first, text behind.
    """

    def __init__(
        self,
        layer: AttentionLayer,
        module: nn.Module,
        control: Control | None,
        *,
        text_first: bool,
        own: bool,
        turn: Turn | None = None,
    ) -> None:
        super().__init__(layer.name, control)
        self.text = 0
        self._joined = layer.place == "single"  # text and picture arrive as one
        self._text_first, self._own = text_first, own
        self._module: Any = module
        self._turn = turn
        self._keys, self._values, self._turned = FeedHook(), FeedHook(), TurnHook()
        self._fed: Any = (self._module.to_k, self._module.to_v)

    @property
    def companions(self) -> list[tuple[nn.Module, PlainHook]]:
        """Modules inside the layer and the hooks that belong on them."""
        if self._own or self.control is None:
            return []
        pairs: list[tuple[nn.Module, PlainHook]] = [
            (self._fed[0], self._keys),
            (self._fed[1], self._values),
        ]
        return pairs if self._turn is None else [*pairs, (self._module.norm_k, self._turned)]

    def check(self) -> None:
        """Refuse to go on when a projection was replaced since (by a LoRA, as a rule)."""
        if (self._module.to_k, self._module.to_v) != self._fed:
            raise UnsupportedPipeline(
                f"The projections of {self.layer} were replaced after the control was attached, so "
                "it would act only in part. Load LoRA and adapters before attaching."
            )
        if self._own:
            check_own_attention(self.layer, self._module)

    def controlled(
        self,
        forward: Callable[..., Any],
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """The layer's output in a call that is recorded or controlled."""
        options = dict(kwargs)
        states: Any = options.pop("encoder_hidden_states", None)
        hidden, options = split_call(self.layer, args, options)
        inside = self.text if self._joined else 0
        image = hidden[:, inside:]
        if self.recording:
            self.recorded = image
        if self.control is None or self.rows is None:
            return forward(*args, **kwargs)
        rotary: Any = options.get("image_rotary_emb")
        if self._own:
            return self._attended(module, hidden, states, rotary, self.control, self.rows)
        rows, turn = self.rows, self._turn

        def layer(
            queries: Tensor, context: Tensor | None = None, allowed: Tensor | None = None
        ) -> Tensor:
            del queries, allowed  # the whole batch, no masks: else the other way in is taken
            if context is not None:
                fed = torch.cat([hidden[:, :inside], context], dim=1) if inside else context
                self._keys.fed = self._values.fed = fed
                if turn is not None:
                    self._turned.turn = lambda keys: _turned_rows(keys, turn, rotary, rows, inside)
            try:
                made: Any = forward(*args, **kwargs)
            finally:
                self._keys.fed = self._values.fed = self._turned.turn = None
            outputs = made if isinstance(made, tuple) else (made,)
            sizes[:] = [one.shape[1] for one in outputs]
            return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]

        sizes: list[int] = []
        bank = bank_of(image, self.source, self.rows.branches)
        call = LayerCall(
            layer=layer, hidden=image, bank=bank, rows=self.rows, masks=None, name=self.layer
        )
        output = self.control(call)
        return output.split(sizes, dim=1) if len(sizes) > 1 else output

    def _attended(
        self,
        module: Any,
        hidden: Tensor,
        states: Tensor | None,
        rotary: Rotary | None,
        control: Control,
        rows: BatchRows,
    ) -> object:
        """The output when the attention is our own, from projections of the whole batch."""
        text = self.text if self._joined or states is not None else 0
        image = hidden.shape[1] - (text if self._joined else 0)
        layer = Attention(module, image=image, text_first=self._text_first, rotary=rotary)
        packed = layer.project(hidden, states, joined=self._joined, text=text)
        source = None
        if self.source is not None:
            flat = layer.project_source(self.source.flatten(0, 1).to(hidden), text)
            source = flat.unflatten(0, self.source.shape[:2])
        masks = self.masks(rows, image)
        if masks is not None:
            masks = functional.pad(masks, (0, text), value=1.0)
        output = control(
            LayerCall(
                layer=layer,
                hidden=packed,
                bank=bank_of(packed, source, rows.branches),
                rows=rows,
                masks=masks,
                name=self.layer,
                turned=None if self._turn is None else layer.turning(self._turn, rows),
            )
        )
        return layer.finish(output, joined=self._joined, states=states)


def _turned_rows(keys: Tensor, turn: Turn, rotary: Rotary, rows: BatchRows, inside: int) -> Tensor:
    """Keys (rows, tokens, heads, d) of a whole batch; those that read another are turned."""
    image = keys[:, inside:]
    numbers = torch.arange(keys.shape[0], device=keys.device)
    reading = torch.zeros_like(numbers, dtype=torch.bool)
    for part in rows.parts:
        if part.sources:
            reading[part.rows] = True
    moved = turn(image, _of_image(rotary, image.shape[1]), numbers % rows.images, 0)
    image = torch.where(reading[:, None, None, None], moved, image)
    return torch.cat([keys[:, :inside], image], dim=1) if inside else image


def _of_image(rotary: Rotary, image: int) -> Rotary:
    """The places of the picture's tokens, which come last."""
    return rotary[0][-image:], rotary[1][-image:]


class Attention:
    """One joint attention with its own weights and our softmax.

    Rows are kept as (rows, image + text tokens, 3 inner): queries, keys and values side by side
    behind their norms, not yet rotated; keys of text and picture come in the layer's own order.
    """

    def __init__(self, module: Any, *, image: int, text_first: bool, rotary: Rotary | None) -> None:
        self._module, self._image, self._text_first = module, image, text_first
        self._rotary = rotary

    def project(self, hidden: Tensor, states: Tensor | None, *, joined: bool, text: int) -> Tensor:
        """(rows, image + text, 3 inner) of the layer's inputs."""
        module = self._module
        parts = [
            self._heads(project(hidden), norm)
            for project, norm in (
                (module.to_q, module.norm_q),
                (module.to_k, module.norm_k),
                (module.to_v, None),
            )
        ]
        if joined:
            parts = [torch.cat([part[:, text:], part[:, :text]], dim=1) for part in parts]
        elif states is not None:
            added = (
                self._heads(module.add_q_proj(states), module.norm_added_q),
                self._heads(module.add_k_proj(states), module.norm_added_k),
                self._heads(module.add_v_proj(states), None),
            )
            parts = [torch.cat(pair, dim=1) for pair in zip(parts, added, strict=True)]
        return torch.cat([part.flatten(2) for part in parts], dim=-1)

    def project_source(self, hidden: Tensor, text: int) -> Tensor:
        """The same of recorded hidden states, of which only keys and values are read."""
        module = self._module
        keys = self._heads(module.to_k(hidden), module.norm_k).flatten(2)
        values = module.to_v(hidden)
        packed = torch.cat([torch.zeros_like(keys), keys, values], dim=-1)
        return functional.pad(packed, (0, 0, 0, text))

    def __call__(
        self, queries: Tensor, context: Tensor | None = None, allowed: Tensor | None = None
    ) -> Tensor:
        """The attention's output (rows, image + text, inner) before the output projections."""
        q, own_k, own_v = self._split(queries)
        image, total = self._image, queries.shape[1]
        read = queries if context is None else context
        several = read.unflatten(1, (-1, total))[:, :, :image].flatten(0, 1)
        _, k, v = self._split(several)
        k = self._rotated(k, image, 0)
        k, v = (one.unflatten(0, (q.shape[0], -1)).flatten(1, 2) for one in (k, v))
        own_k = self._rotated(own_k[:, image:], 0, total - image)
        k, v = self._ordered(k, own_k), self._ordered(v, own_v[:, image:])
        q = self._ordered(
            self._rotated(q[:, :image], image, 0), self._rotated(q[:, image:], 0, total - image)
        )
        text = total - image
        if allowed is None:
            out = self._attend(q, k, v)
            return torch.cat(self._parted(out, text), dim=1)
        keep = allowed.unflatten(1, (-1, total))[:, :, :image].flatten(1) > 0.5
        keep = self._ordered(keep, keep.new_ones(keep.shape[0], text))
        q_image, q_text = self._parted(q, text)
        seen = self._attend(q_image, k, v, keep[:, None, None, :])
        # Text has no place in the picture, so it reads all of it.
        return torch.cat([seen, self._attend(q_text, k, v)], dim=1) if text else seen

    def turning(self, turn: Turn, rows: BatchRows) -> Callable[[Tensor, Part, int], Tensor]:
        """`LayerCall.turned`: the same rows with the picture's keys at other positions."""
        if self._rotary is None:
            raise UnsupportedPipeline("Keys have no positions here; use positions='same'.")
        rotary = _of_image(self._rotary, self._image)

        def at(context: Tensor, part: Part, k: int) -> Tensor:
            q, keys, v = (one.flatten(2) for one in self._split(context))
            image = keys[:, : self._image].unflatten(-1, (self._module.heads, -1))
            moved = turn(image, rotary, part.rows % rows.images, k).flatten(2)
            keys = torch.cat([moved, keys[:, self._image :]], dim=1)
            return torch.cat([q, keys, v], dim=-1)

        return at

    def finish(self, output: Tensor, *, joined: bool, states: Tensor | None) -> object:
        """What the layer returns: (picture, text), the picture alone, or both in one."""
        module = self._module
        image, text = output[:, : self._image], output[:, self._image :]
        if joined:
            return torch.cat([text, image], dim=1)
        image = module.to_out[1](module.to_out[0](image))
        if states is None:
            return image
        if not module.context_pre_only:
            text = module.to_add_out(text)
        return image, text

    def _heads(self, projected: Tensor, norm: Any) -> Tensor:
        """(rows, tokens, heads, d)."""
        unflattened: Any = projected.unflatten(-1, (self._module.heads, -1))
        heads: Tensor = unflattened if norm is None else norm(unflattened)
        return heads

    def _split(self, packed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        heads: Any = packed.unflatten(-1, (3, self._module.heads, -1))
        q, k, v = heads.unbind(2)
        return q, k, v

    def _rotated(self, heads: Tensor, image: int, text: int) -> Tensor:
        """(rows, tokens, heads, d) at the places of the picture's tokens, or of the text's."""
        if self._rotary is None or heads.shape[1] == 0:
            return heads
        cos, sin = (one[-image:] if image else one[:text] for one in self._rotary)
        return cast("Tensor", apply_rotary_emb(heads, (cos, sin), sequence_dim=1))

    def _ordered(self, image: Tensor, text: Tensor) -> Tensor:
        return torch.cat([text, image] if self._text_first else [image, text], dim=1)

    def _parted(self, both: Tensor, text: int) -> tuple[Tensor, Tensor]:
        """(picture, text) of tokens in the layer's order."""
        if self._text_first:
            return both[:, text:], both[:, :text]
        return both[:, : both.shape[1] - text], both[:, both.shape[1] - text :]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
        """softmax(q k^T / sqrt(d)) v over the kept keys: (rows, tokens, inner)."""
        processor = self._module.processor
        if isinstance(processor, FluxAttnProcessor):
            out: Any = dispatch_attention_fn(
                q,
                k,
                v,
                attn_mask=keep,
                backend=processor._attention_backend,
                parallel_config=processor._parallel_config,
            )
        else:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            out = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep).transpose(1, 2)
        flat: Tensor = out.flatten(2).to(q.dtype)
        return flat


def check_own_attention(name: str, module: Any) -> None:
    """Refuse processors that do more than attention; our own would leave that out."""
    processor = module.processor
    if type(processor) not in (JointAttnProcessor2_0, FluxAttnProcessor):
        raise UnsupportedPipeline(
            f"{name} runs a {type(processor).__name__}, which union, masks, several sources a "
            "target and strengths below 1 would leave out. Use form='replace' without masks, one "
            "source a target and strength 1, or unload the IP-Adapter first."
        )
