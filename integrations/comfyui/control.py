"""MasaCtrl on a ComfyUI model: the host's patch points on one side, `masactrl` on the other.

    attn1_patch     gets a layer's input n and the context and value it is about to project: handing
                    it the source's n *is* A(Q, K_s, V_s), and other nodes' patches go on working
    attn1_replace   gets projected q, k, v: for masks, union, strength and several sources, where a
                    layer is asked more than once

Which rows of a batch are cond and which uncond is the host's own list `cond_or_uncond`; every
entry is one run of the latent batch. Steps come from the host's sigmas. The equations are
`masactrl.methods.mutual`, steps and layers `masactrl.attention.schedule`; none imports diffusers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.call import LayerCall
from masactrl.attention.masks import binary, key_bias, resized
from masactrl.attention.rows import BatchRows, Rows
from masactrl.attention.view import AttentionRecord, QueryKeys
from masactrl.errors import ControlNotApplied, MaskError, RowsError, UnsupportedPipeline
from masactrl.methods.mutual import Form, mutual_self_attention

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from masactrl.attention.schedule import Place, Schedule

Block = tuple[str, int, int]
"""Of the host's names: ("output", 5, 0) is the first transformer block of output block 5."""

_PLACES: dict[str, Place] = {"input": "encoder", "middle": "mid", "output": "decoder"}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLayer:
    """A self-attention layer of the host's U-Net; what a `Schedule` asks of it, and its block."""

    index: int
    block: Block
    place: Place
    scale: int

    @property
    def name(self) -> str:
        """As nodes write it: output.5, or output.5.1 for the second in a block."""
        stage, number, inner = self.block
        return f"{stage}.{number}" + (f".{inner}" if inner else "")


def find_layers(network: Any) -> tuple[HostLayer, ...]:
    """All self-attention layers of the host's `diffusion_model`, in execution order.

    Raises:
        UnsupportedPipeline: it is no U-Net with transformer blocks.
    """
    found: list[HostLayer] = []
    scale = 1
    for stage in ("input", "middle", "output"):
        blocks = getattr(network, f"{stage}_block" + ("" if stage == "middle" else "s"), ())
        for number, parts in enumerate([blocks] if stage == "middle" else blocks):
            for part in parts:
                kind = type(part).__name__
                if kind == "Downsample":
                    scale *= 2
                elif kind == "Upsample":
                    scale //= 2
                for inner, one in enumerate(getattr(part, "transformer_blocks", ())):
                    if getattr(one, "disable_self_attn", False):
                        continue
                    found.append(
                        HostLayer(
                            index=len(found),
                            block=(stage, number, inner),
                            place=_PLACES[stage],
                            scale=scale,
                        )
                    )
    if not found:
        raise UnsupportedPipeline(
            f"The model is a {type(network).__name__} without self-attention layers of a U-Net. "
            "Accepted are Stable Diffusion 1.x, 2.x, XL and what is built like them."
        )
    return tuple(found)


def layer_number(text: str, layers: Sequence[HostLayer]) -> int:
    """The layer that a node's text names: a block of the host (output.5) or a number.

    Raises:
        UnsupportedPipeline: the model has no such layer.
    """
    said = text.strip().lower()
    for layer in layers:
        if said in (layer.name, f"{layer.name}.{layer.block[2]}", str(layer.index)):
            return layer.index
    raise UnsupportedPipeline(
        f"There is no self-attention layer {text!r} in this model; accepted are "
        f"{', '.join(layer.name for layer in layers)} and the numbers 0 to {layers[-1].index}."
    )


@dataclass(slots=True, kw_only=True)
class _Run:
    """What is known of the sampling in progress."""

    images: int
    rows: Rows
    sigmas: tuple[float, ...]
    steps: frozenset[int]
    acted: bool = False

    def step(self, sigma: float) -> int:
        """The last planned step that is reached at a noise level.

        A sampler that calls the network between two steps is in the earlier of them.
        """
        reached = sum(planned >= sigma * (1 - 1e-6) for planned in self.sigmas)
        return max(reached - 1, 0)


class Control:
    """The control of one MasaCtrl node: state of a run, and the functions that the host calls.

    Args:
        layers: all of the model, as `find_layers` lists them.
        schedule: steps and layers.
        sources: how many images at the begin of the batch are sources; the others read them all.
        form, strength: as in `masactrl.methods.mutual`.
        masks: foregrounds (images, height, width) in [0, 1], sources first, or None.
        threshold: at which a mask is cut.
        attention: softmax(q k^T / sqrt(d) + mask) v, called (q, k, v, heads, mask) with tensors
            (rows, tokens, heads * d); the host's own.
        watched: the layer whose queries and keys are kept for a look, or None.
    """

    def __init__(
        self,
        layers: Sequence[HostLayer],
        schedule: Schedule,
        *,
        sources: int = 1,
        form: Form = "replace",
        strength: float = 1.0,
        masks: Tensor | None = None,
        threshold: float = 0.5,
        attention: Callable[..., Tensor],
        watched: int | None = None,
    ) -> None:
        self._layers = {layer.block: layer for layer in layers}
        self.chosen = frozenset(layer.block for layer in schedule.resolve_layers(layers))
        self._schedule, self._sources = schedule, sources
        self._form, self._strength, self._attention = form, strength, attention
        self._masks = None if masks is None else binary(masks.float(), threshold)
        self._watched = None if watched is None else layers[watched].block
        self.views = AttentionRecord()
        self._run: _Run | None = None
        self._laid: dict[tuple[int, torch.device], BatchRows] = {}
        self._grids: dict[tuple[int, int, torch.device], Tensor] = {}

    @property
    def replaced(self) -> frozenset[Block]:
        """The blocks that need `attn1_replace`; all others of `chosen` do with `attn1_patch`."""
        plain = self._form == "replace" and self._strength == 1.0 and self._masks is None
        if plain and self._sources == 1:
            return frozenset() if self._watched is None else frozenset({self._watched})
        return self.chosen | ({self._watched} if self._watched is not None else set())

    def begin(self, images: int, sigmas: Sequence[float], timesteps: Sequence[float]) -> None:
        """Get ready for a sampling of `images` latents; `timesteps` are those of `sigmas`.

        Raises:
            RowsError: the batch holds no target; MaskError: masks are not one per image;
            ScheduleError: the run has no such step.
        """
        targets = images - self._sources
        if targets < 1:
            raise RowsError(
                f"MasaCtrl got a latent batch of {images} with sources={self._sources}, so there "
                "is no target. The batch holds the sources first, then the targets: use MasaCtrl "
                "Source or Repeat Latent Batch to make it larger."
            )
        if self._masks is not None and len(self._masks) != images:
            raise MaskError(
                f"MasaCtrl Masks holds {len(self._masks)} masks for a latent batch of {images}. "
                "Give one per image, the source's first."
            )
        self._laid.clear()
        self.views.clear()
        self._run = _Run(
            images=images,
            rows=Rows.groups([(self._sources, targets)]),
            sigmas=tuple(sigmas),
            steps=self._schedule.resolve_steps(timesteps),
        )

    def end(self) -> None:
        """Check that something was done; raises `ControlNotApplied` where it was not."""
        run, self._run = self._run, None
        if run is not None and run.steps and not run.acted and self._strength > 0:
            raise ControlNotApplied(
                "MasaCtrl changed no layer in this run: the sampler reached none of its steps "
                f"({min(run.steps)} to {max(run.steps)} of {len(run.sigmas)}), or another node "
                "took its patches away. Start earlier, or put MasaCtrl behind that node."
            )

    def drop(self) -> None:
        """Forget a run that was broken off."""
        self._run = None

    def patch(
        self, n: Tensor, context: Tensor, value: Tensor, extra: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`attn1_patch`: inputs (rows, tokens, channels) of a layer, from the source's rows."""
        layer = self._layers.get(_block(extra))
        if layer is None or layer.block not in self.chosen or layer.block in self.replaced:
            return n, context, value
        run, rows = self._now(n, extra)
        if run is None:
            return n, context, value
        read: list[Tensor] = []

        def asked(queries: Tensor, source: Tensor | None = None, _: Tensor | None = None) -> Tensor:
            read.append(queries if source is None else source)
            return queries

        for bank in (context, value) if value is not context else (context,):
            mutual_self_attention(
                LayerCall(layer=asked, hidden=n, bank=bank, rows=rows, masks=None)
            )
        run.acted = True
        return n, read[0], read[-1]

    def replace(self, q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> Tensor:
        """`attn1_replace`: the layer's output (rows, tokens, channels) before its last projection.

        Queries, keys and values travel side by side in one tensor, so that the rows which a call of
        the layer picks carry all three.
        """
        layer, width, heads = self._layers[_block(extra)], q.shape[-1], int(extra["n_heads"])
        precision = extra.get("attn_precision")

        def attend(
            queries: Tensor, source: Tensor | None = None, allowed: Tensor | None = None
        ) -> Tensor:
            asking, keys, values = queries[..., :width], *_keys(queries, source, width)
            mask = None if allowed is None else key_bias(allowed, asking.dtype)
            return self._attention(
                asking.contiguous(), keys, values, heads, mask=mask, attn_precision=precision
            )

        packed = torch.cat([q, k, v], dim=-1)
        run, rows = self._now(q, extra)
        if run is not None and layer.block == self._watched:
            self._keep(layer, run, rows, packed, heads, extra)
        if run is None or layer.block not in self.chosen:
            return attend(packed)
        run.acted = True
        return mutual_self_attention(
            LayerCall(
                layer=attend,
                hidden=packed,
                bank=packed,
                rows=rows,
                masks=self._mask_at(layer, rows.branches, q, extra),
            ),
            form=self._form,
            strength=self._strength,
        )

    def _now(self, hidden: Tensor, extra: Mapping[str, Any]) -> tuple[_Run | None, BatchRows]:
        """The run, if this is one of its steps (else None), and who reads whom in this batch."""
        run = self._run
        if run is None:
            raise ControlNotApplied(
                "MasaCtrl was not told of this sampling: the sampler goes around the host's own. "
                "Use KSampler, SamplerCustom or another node that samples through ComfyUI."
            )
        branches = len(extra["cond_or_uncond"])
        if hidden.shape[0] != branches * run.images:
            raise RowsError(
                f"MasaCtrl saw {hidden.shape[0]} rows in {branches} parts for a latent batch of "
                f"{run.images}: another node changes the batch inside the model. Take it off."
            )
        key = (branches, hidden.device)
        if key not in self._laid:
            self._laid[key] = run.rows.on_batch(hidden.shape[0], hidden.device)
        step = run.step(float(extra["sigmas"].flatten()[0]))
        return (run if step in run.steps else None), self._laid[key]

    def _mask_at(
        self, layer: HostLayer, branches: int, like: Tensor, extra: Mapping[str, Any]
    ) -> Tensor | None:
        if self._masks is None:
            return None
        height, width = _grid(layer, extra)
        key = (height, width, like.device)
        if key not in self._grids:
            self._grids[key] = resized(self._masks, height, width).flatten(1).to(like.device)
        if height * width != like.shape[1]:
            raise UnsupportedPipeline(
                f"The layer {layer.name} sees {like.shape[1]} tokens where its part of the latent "
                f"has {height * width}: something merges or tiles them (ToMe, HyperTile), and "
                "masks need every token in its place. Take that node off."
            )
        return self._grids[key].repeat(branches, 1)

    def _keep(
        self,
        layer: HostLayer,
        run: _Run,
        rows: BatchRows,
        packed: Tensor,
        heads: int,
        extra: Mapping[str, Any],
    ) -> None:
        """Keep queries and keys of all targets, in the rows that carry the prompt (cond)."""
        branch = list(extra["cond_or_uncond"]).index(0) if 0 in extra["cond_or_uncond"] else 0
        width, first = packed.shape[-1] // 3, branch * rows.images
        part = packed[first : first + rows.images, :, : 2 * width].float().cpu()
        q, k = (one.unflatten(-1, (heads, -1)).transpose(1, 2) for one in part.chunk(2, dim=-1))
        union = self._form == "union"
        mask = self._mask_at(layer, 1, packed, extra)
        marked = None if mask is None else mask.bool().cpu()
        seen = []
        for image in run.rows.targets:
            read = (*run.rows.reads[image], *([image] if union else []))
            seen.append(
                QueryKeys(
                    grid=_grid(layer, extra),
                    queries=q[image],
                    keys=torch.cat([k[one] for one in read], dim=1),
                    mask=None if marked is None else marked[image],
                    key_mask=None if marked is None else torch.cat([marked[one] for one in read]),
                )
            )
        step = run.step(float(extra["sigmas"].flatten()[0]))
        self.views.keep(step, layer.index, seen)


def _keys(queries: Tensor, source: Tensor | None, width: int) -> tuple[Tensor, Tensor]:
    packed = queries if source is None else source
    return packed[..., width : 2 * width].contiguous(), packed[..., 2 * width :].contiguous()


def _block(extra: Mapping[str, Any]) -> Block:
    stage, number = extra["block"][:2]
    return stage, number, int(extra.get("block_index", 0))


def _grid(layer: HostLayer, extra: Mapping[str, Any]) -> tuple[int, int]:
    """Rows and columns of the layer's tokens; every halving rounds up."""
    height, width = extra["original_shape"][-2:]
    return -(-height // layer.scale), -(-width // layer.scale)
