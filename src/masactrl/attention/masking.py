"""Masks at work: what each controlled layer may read, and what it really used."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from masactrl.attention.layers import check_tokens
from masactrl.attention.maps import CrossAttentionHook
from masactrl.attention.masks import GivenMasks, OnEmpty, WordMasks, binary, normalised, resized
from masactrl.attention.words import token_numbers
from masactrl.errors import ControlWarning, MaskError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from diffusers import DiffusionPipeline
    from diffusers.hooks.hooks import ModelHook

    from masactrl.attention.features import SourceFeatures
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import Rows
    from masactrl.attention.steps import StepInfo

__all__ = [
    "GivenMasker",
    "MaskUse",
    "Masker",
    "WordMasker",
    "branch_rows",
    "check_count",
    "report_useless",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MaskUse:
    """The masks of one layer call.

    `mask` (images, rows, columns) in {0, 1} is at the layer's grid, the soft `map` it was cut from
    at the capture grid (None for given masks). Recorded sources follow the images of the run.
    """

    mask: Tensor
    map: Tensor | None = None


class Masker(Protocol):
    """Provides the masks of an attachment."""

    on_empty: OnEmpty

    def hooks(self) -> Sequence[tuple[nn.Module, ModelHook]]:
        """Further hooks to install."""
        ...

    def before(
        self, info: StepInfo, call: DenoiserCall, *, active: bool, soon: bool, number: int
    ) -> None:
        """Get ready for a denoiser call, the `number`-th of its step.

        `active` and `soon` say whether this and the next step are controlled.
        """
        ...

    def at(self, layer: AttentionLayer) -> MaskUse:
        """The masks for one layer, called when that layer is about to run."""
        ...

    def after(self, info: StepInfo, uses: Iterable[tuple[AttentionLayer, MaskUse]]) -> None:
        """Learn what was used in the denoiser call that has just ended."""
        ...


class GivenMasker:
    """Masks that the user gave, at every layer's grid."""

    def __init__(self, given: GivenMasks, rows: Rows) -> None:
        # Refused below, as given; one that vanishes at a coarse layer later is only said.
        self.on_empty: OnEmpty = "warn"
        check_count("masks", len(given.images), rows.images, "images of the run")
        check_count("source masks", len(given.sources), rows.cached, "recorded sources")
        involved = rows.involved
        masks: list[Tensor] = []
        for image, mask in enumerate((*given.images, *given.sources)):
            if mask is None and image in involved:
                raise MaskError(
                    f"Image {image} reads or is read but has no mask. Give a mask for the source "
                    "and for every target; None is for images that take no part."
                )
            chosen = torch.as_tensor(np.ones((1, 1), np.float32) if mask is None else mask)
            masks.append(binary(chosen, given.threshold))
        report_useless({image: masks[image] for image in involved}, given.on_empty, "was given for")
        self._masks = masks
        self._size, self._device = (0, 0), torch.device("cpu")
        self._ready: dict[tuple[int, int, torch.device], MaskUse] = {}

    def hooks(self) -> Sequence[tuple[nn.Module, ModelHook]]:
        """None are needed."""
        return ()

    def before(
        self, _info: StepInfo, call: DenoiserCall, *, active: bool, soon: bool, number: int
    ) -> None:
        """Note the size of the latents."""
        del soon, number
        if active:
            self._size, self._device = call.size(), call.sample.device

    def at(self, layer: AttentionLayer) -> MaskUse:
        """The masks at this layer's grid."""
        height, width = layer.grid(*self._size)
        key = (height, width, self._device)
        if key not in self._ready:
            parts = [resized(mask[None], height, width) for mask in self._masks]
            self._ready[key] = MaskUse(mask=torch.cat(parts).to(self._device))
        return self._ready[key]

    def after(self, _info: StepInfo, _uses: Iterable[tuple[AttentionLayer, MaskUse]]) -> None:
        """Nothing to learn."""


class WordMasker:
    """Masks from the attention maps of named words, computed as the network runs."""

    def __init__(
        self,
        wanted: WordMasks,
        *,
        pipeline: DiffusionPipeline,
        rows: Rows,
        layers: Sequence[AttentionLayer],
        controlled: Sequence[AttentionLayer],
        source: SourceFeatures | None = None,
        record: SourceFeatures | None = None,
    ) -> None:
        self.on_empty: OnEmpty = wanted.on_empty
        self._wanted, self._rows = wanted, rows
        self._source, self._record = source, record
        self._tokens = _token_table(wanted, pipeline, rows, recording=record is not None)
        self._captures = [
            (layer, CrossAttentionHook()) for layer in _capture_layers(wanted, layers)
        ]
        _check_order(self._captures[0][0], controlled)
        self._size = (0, 0)
        self._kept: list[Tensor | None] = []
        self._previous: dict[int, Tensor] = {}

    def hooks(self) -> Sequence[tuple[nn.Module, ModelHook]]:
        """The cross-attention layers whose maps are read."""
        return [(layer.cross, hook) for layer, hook in self._captures if layer.cross is not None]

    def before(
        self, info: StepInfo, call: DenoiserCall, *, active: bool, soon: bool, number: int
    ) -> None:
        """Forget the last call's maps and choose the rows that carry the prompts."""
        del soon, number
        if info.new_run:
            self._previous = {}
        self._size = call.size()
        first = branch_rows(self._wanted, call.sample.shape[0], self._rows)
        tokens = self._tokens.to(call.sample.device)
        for _, hook in self._captures:
            hook.active, hook.map, hook.tokens = active, None, tokens
            hook.first = first
        self._kept = [None] * len(self._captures)
        if active and self._source is not None:
            self._kept = [
                self._source.get_map(info.step, info.timestep, layer.index).to(tokens)
                for layer, _ in self._captures
            ]

    def at(self, layer: AttentionLayer) -> MaskUse:
        """The masks from the maps of the layers passed so far in this step."""
        maps = []
        for (capture, hook), kept in zip(self._captures, self._kept, strict=True):
            if capture.index < layer.index and hook.map is not None:
                maps.append(hook.map if kept is None else torch.cat([hook.map, kept]))
        height, width = self._size
        capture = self._captures[0][0]
        rows, columns = capture.grid(height, width)
        for one in maps:
            check_tokens(capture.name, one.shape[-1], rows * columns, "masks of words need")
        soft = normalised(torch.stack(maps).mean(dim=0).reshape(-1, rows, columns))
        previous = self._previous.get(layer.index)
        if previous is not None:
            soft = torch.lerp(soft, previous, self._wanted.smoothing)
        mask = binary(resized(soft, *layer.grid(height, width)), self._wanted.threshold)
        return MaskUse(mask=mask, map=soft)

    def after(self, info: StepInfo, uses: Iterable[tuple[AttentionLayer, MaskUse]]) -> None:
        """Keep the maps for smoothing and for the recording."""
        if self._wanted.smoothing > 0.0:
            for layer, use in uses:
                if use.map is not None:
                    self._previous[layer.index] = use.map
        for layer, hook in self._captures:
            if self._record is not None and hook.map is not None:
                self._record.put_map(info.step, layer.index, hook.map)
            hook.active, hook.map = False, None


def report_useless(masks: dict[int, Tensor], on_empty: OnEmpty, where: str) -> list[int]:
    """Report masks without foreground or without background; the images they belong to."""
    useless = []
    for image, mask in masks.items():
        part = float(mask.float().mean())
        if 0.0 < part < 1.0:
            continue
        useless.append(image)
        kind = "An empty" if part == 0.0 else "A full"
        message = (
            f"{kind} mask {where} image {image}, so it separates nothing. "
            "Choose another threshold, other words or another mask."
        )
        if on_empty == "raise":
            raise MaskError(message)
        warnings.warn(message, ControlWarning, stacklevel=3)
    return useless


def branch_rows(wanted: WordMasks, batch: int, rows: Rows) -> int:
    """The batch row of image 0 in the guidance branch that carries the prompts."""
    branches = batch // rows.images
    if not -branches <= wanted.branch < branches:
        raise MaskError(
            f"branch={wanted.branch} was asked for, but the run has {branches} guidance "
            f"branches; accepted are 0 to {branches - 1}, or -1 for the last."
        )
    return wanted.branch % branches * rows.images


def check_count(what: str, given: int, wanted: int, of: str) -> None:
    """Refuse another number of masks, words or prompts than there are images; `MaskError`."""
    if given != wanted:
        raise MaskError(
            f"{given} {what} were given for {wanted} {of}. Give one per image, in the order of "
            "the prompts (.repeated(n) serves num_images_per_prompt=n)."
        )


def _token_table(
    wanted: WordMasks, pipeline: DiffusionPipeline, rows: Rows, *, recording: bool
) -> Tensor:
    """(images, tokens): 1 where a token belongs to the named words of an image."""
    tokenizer: Any = getattr(pipeline, "tokenizer", None) or getattr(pipeline, "tokenizer_2", None)
    if tokenizer is None:
        raise MaskError(
            f"{type(pipeline).__name__} was loaded without a tokenizer, so words cannot be found "
            "in prompts. Load it with one, or use GivenMasks."
        )
    # Textual inversion writes one word as several tokens; the pipeline converts its prompts so.
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    words = wanted.source_words if recording else wanted.words
    prompts = wanted.source_prompts if recording else wanted.prompts
    check_count("entries of words", len(words), rows.images, "images of the run")
    if prompts:
        check_count("prompts", len(prompts), rows.images, "images of the run")
    longest = int(tokenizer.model_max_length)
    table = torch.zeros(rows.images, longest, dtype=torch.float32, device="cpu")
    for image, entry in enumerate(words):
        named = (entry,) if isinstance(entry, (str, int)) else entry
        prompt = prompts[image] if prompts else None
        if convert is not None:
            prompt = None if prompt is None else convert(prompt, tokenizer)
            named = tuple(convert(w, tokenizer) if isinstance(w, str) else w for w in named)
        numbers = token_numbers(tokenizer, prompt, named)
        table[image, list(numbers)] = 1.0
    return table


def _capture_layers(wanted: WordMasks, layers: Sequence[AttentionLayer]) -> list[AttentionLayer]:
    """The layers with cross-attention at the level nearest to the wanted one; finer wins a tie."""
    crossed = [layer for layer in layers if layer.cross is not None]
    if not crossed:
        raise MaskError(
            "This model has no cross-attention, so words have no maps. Use GivenMasks instead."
        )

    def distance(scale: int) -> tuple[float, int]:
        ratio = scale / wanted.capture_scale
        return max(ratio, 1 / ratio), scale

    best = min({layer.scale for layer in crossed}, key=distance)
    return [layer for layer in crossed if layer.scale == best]


def _check_order(first: AttentionLayer, controlled: Sequence[AttentionLayer]) -> None:
    early = [layer.index for layer in controlled if layer.index <= first.index]
    if early:
        raise MaskError(
            f"Layer {early[0]} runs before any attention map of the words exists: the first map "
            f"comes from layer {first.index}. Control layers from {first.index + 1} on, or use "
            "GivenMasks."
        )
