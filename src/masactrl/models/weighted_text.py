"""Weighted prompts as embeddings, by the library compel (extra `prompts`).

Who encodes prompts lets the pipeline encode them without their weights, and `weighed` then puts the
rows of those that have some in their place. So prompts without weights are the pipeline's own to
the bit, and compel is not even imported. Of compel only what turns parts and weights into
embeddings is used: its own way of writing weights, where + and - and quotes mean something, never
sees a prompt. A weight w is defined there thus:

    z        embeddings of the prompt without weights (tokens, width)
    z_0      embeddings of no words
    z^k      embeddings of the prompt when no token sees the tokens of part k, whose weight is w_k
    s(z)     z_0 + w (z - z_0), at every token with the weight of its part
    t_k      tan((1 - w_k) pi / 2)

    weighted = (s(z) + sum_k t_k s(z^k)) / (1 + sum_k t_k)        k: parts with w_k < 1

A pooled embedding (SDXL) is that of the prompt without weights, as it is in compel.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.networks import network_of
from masactrl.errors import UnsupportedPipeline
from masactrl.settings.prompt_weights import is_weighted, parse, without_weights

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.settings.prompt_weights import Span

__all__ = ["embeddings", "weighed", "weights_act"]

_NAMES = (
    "prompt_embeds",
    "negative_prompt_embeds",
    "pooled_prompt_embeds",
    "negative_pooled_prompt_embeds",
)
"""What `encode_prompt` of diffusers returns, in order, as its pipelines take it; SD has two."""


def weights_act(pipeline: Any = None) -> bool:
    """Whether weights act in the prompts of a pipeline, or None of Stable Diffusion's.

    They do where compel is installed, and not in SD3 and FLUX, whose T5 it does not know.
    """
    joint = pipeline is not None and network_of(pipeline)[0].joint
    return not joint and importlib.util.find_spec("compel") is not None


def embeddings(
    pipeline: Any, prompts: Sequence[str], negative_prompt: str, *, guided: bool
) -> dict[str, Tensor]:
    """Return what a pipeline's call takes in the place of its prompts, by name.

    Args:
        pipeline: Stable Diffusion or SDXL.
        prompts: n of them, as written.
        negative_prompt: for all; empty is the pipeline's own nothing.
        guided: whether guidance needs it.
    """
    said, count = without_weights(negative_prompt), len(prompts)
    with torch.no_grad():
        encoded = pipeline.encode_prompt(
            prompt=[without_weights(one) for one in prompts],
            negative_prompt=[said] * count if said else None,
            device=pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
        )
    found = {name: one for name, one in zip(_NAMES, encoded, strict=False) if one is not None}
    for name, written in zip(_NAMES, (prompts, [negative_prompt] * count), strict=False):
        if name in found:
            found[name] = weighed(pipeline, written, found[name])
    return found


@torch.no_grad()
def weighed(pipeline: Any, prompts: Sequence[str], hidden: Tensor) -> Tensor:
    """Return the hidden states with those of weighted prompts in the place of the plain ones.

    Args:
        pipeline: whose text encoders count.
        prompts: as written, one a row.
        hidden: (rows, words, width) of the prompts without weights.

    Raises:
        UnsupportedPipeline: the pipeline encodes text in another way than compel.
    """
    written = {one for one in prompts if is_weighted(one)}
    if not written or not weights_act():
        return hidden
    made = {one: _encoded(pipeline, parse(one)) for one in written}
    rows = list(hidden.split(1))
    for row, prompt in enumerate(prompts):
        own = made.get(prompt)
        if own is None:
            continue
        if own.shape != rows[row].shape:
            raise UnsupportedPipeline(
                f"{type(pipeline).__name__} encodes text into {tuple(rows[row].shape[1:])} numbers "
                f"and compel into {tuple(own.shape[1:])}, so weights of a prompt cannot act; leave "
                "them out."
            )
        rows[row] = own.to(hidden)
    return torch.cat(rows)


@dataclass(frozen=True, slots=True)
class _Encoder:
    """A text encoder for compel, which else looks for the device in the weights.

    Offloaded weights are elsewhere, and of a model offloaded layer by layer nowhere.
    """

    module: Any
    device: torch.device

    @property
    def dtype(self) -> torch.dtype:
        dtype: torch.dtype = self.module.dtype
        return dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _encoded(pipeline: Any, spans: Sequence[Span]) -> Tensor | None:
    """(1, words, width) of one prompt, of all text encoders side by side; None of no tokens."""
    compel: Any = import_module("compel")
    pairs = [
        (
            getattr(pipeline, f"tokenizer{which}", None),
            getattr(pipeline, f"text_encoder{which}", None),
        )
        for which in ("", "_2")
    ]
    kinds, large = compel.ReturnedEmbeddingsType, pairs[1][1] is not None
    device, parts = pipeline._execution_device, []
    for tokenizer, encoder in pairs:
        if tokenizer is None or encoder is None:
            continue
        said = _told(pipeline, tokenizer, spans)
        if not said:
            return None
        provider = compel.EmbeddingsProvider(
            tokenizer=tokenizer,
            text_encoder=_Encoder(encoder, device),
            returned_embeddings_type=(
                kinds.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
                if large
                else kinds.LAST_HIDDEN_STATES_NORMALIZED
            ),
            device=device,
        )
        texts, weights = zip(*said, strict=True)
        parts.append(
            provider.get_embeddings_for_weighted_prompt_fragments(
                [list(texts)], [list(weights)], device=device
            )
        )
    return torch.cat(parts, dim=-1)


def _told(pipeline: Any, tokenizer: Any, spans: Sequence[Span]) -> list[tuple[str, float]]:
    """The parts that have tokens, textual inversions written out as the pipeline does it."""
    convert = getattr(pipeline, "maybe_convert_prompt", None)
    said = [
        (span.text if convert is None else convert(span.text, tokenizer), span.weight)
        for span in spans
    ]
    # compel fails at a part without tokens, such as a space between two brackets.
    return [one for one in said if tokenizer(one[0], add_special_tokens=False).input_ids]
