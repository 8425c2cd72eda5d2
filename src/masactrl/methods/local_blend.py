r"""Local blend of Prompt-to-Prompt: keep the source wherever neither prompt's word is looked at.

    B   = maxpool_3( mean_{layers, heads} sum_{steps so far} sum_{words} M* )
    S   = [ B / max B > k ]                          both for the source and for the target
    S' = [ B'/ max B'> k']                           of words to subtract; B' as B, not pooled
    z  <- z_s + (S_s or S) and not (S'_s or S') (z - z_s)       after a step of the sampler

    M*        cross-attention probabilities after their replacement, at 16x16, mid block left out
    k, k'     thresholds (0.3)
    z, z_s    latents of target and source after the step

It works on latents, which no layer holds: the scheduler's `step` is wrapped while it is attached.
"""

from __future__ import annotations

import functools
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.errors import ConfigError, ControlNotApplied, MaskError, PromptError, RowsError
from masactrl.methods.words import word_tokens
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.control_hooks import CallContext
    from masactrl.attention.rows import Rows

__all__ = ["Blender", "LocalBlend", "blend_mask"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalBlend:
    """What may change: the pictures' parts that `source` and `target` words are looked at.

    `source` and `target` are words of the prompts; of several target words those that a prompt
    holds count, and it must hold one. What the words `subtract` are looked at stays the source's;
    one of the two prompts must hold one. `threshold` in (0, 1) is k, `subtract_threshold` k'; the
    first int(`begin` N) steps are not blended; maps are those of layers with `tokens` picture
    tokens (256 is 16x16, which a 512-pixel Stable Diffusion has), None those of a quarter of the
    latents' side.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    subtract: tuple[str, ...] = ()
    threshold: float = 0.3
    subtract_threshold: float = 0.3
    begin: float = 0.0
    tokens: int | None = 256

    def __post_init__(self) -> None:
        settle(self)
        for name in ("source", "target", "subtract"):
            value: Any = getattr(self, name)
            words = (value,) if isinstance(value, str) else tuple(value or ())
            if not all(isinstance(word, str) and word.strip() for word in words):
                raise ConfigError(f"{name}={value!r} was given; accepted are words.")
            if not words and name != "subtract":
                raise ConfigError(f"{name} of a local blend is empty; name at least one word.")
            object.__setattr__(self, name, words)
        for name in ("threshold", "subtract_threshold"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is between 0 and 1."
                )
        if not 0.0 <= self.begin < 1.0:
            raise ConfigError(f"begin={self.begin} was given; accepted is 0 to below 1.")
        if self.tokens is not None and self.tokens < 1:
            raise ConfigError(f"tokens={self.tokens} was given; use 1 or more, or None.")

    def words(self, tokenizer: Any, prompt: str, *, source: bool) -> Tensor:
        """(2, words) 1 at the tokens of the words in this prompt, and at those to subtract.

        Raises `PromptError` without any of the first.
        """
        chosen = self.source if source else self.target
        numbers = [n for word in chosen for n in word_tokens(tokenizer, prompt, word)]
        if not numbers:
            raise PromptError(
                f"None of the words {', '.join(map(repr, chosen))} of the local blend is in the "
                f"prompt {prompt!r}. Name words of both prompts."
            )
        size = (2, int(tokenizer.model_max_length))
        weights = torch.zeros(size, dtype=torch.float32, device="cpu")
        weights[0, numbers] = 1.0
        weights[1, [n for w in self.subtract for n in word_tokens(tokenizer, prompt, w)]] = 1.0
        return weights

    def check_subtracted(
        self, source: Tensor | None, target: Tensor | None, source_prompt: str, target_prompt: str
    ) -> None:
        """Refuse words to subtract that neither prompt holds; `PromptError`."""
        held = any(one is not None and bool(one[1].any()) for one in (source, target))
        if self.subtract and not held:
            raise PromptError(
                f"None of the words {', '.join(map(repr, self.subtract))} that the local blend "
                f"subtracts is in {source_prompt!r} or {target_prompt!r}."
            )


def blend_mask(
    maps: Tensor, size: tuple[int, int], threshold: float, *, pool: bool = True
) -> Tensor:
    """S (images, 1, *size) booleans from summed word maps (images, height, width)."""
    pooled = F.max_pool2d(maps[:, None], 3, stride=1, padding=1) if pool else maps[:, None]
    sized = F.interpolate(pooled, size=size)  # nearest
    return sized / sized.amax(dim=(2, 3), keepdim=True) > threshold


class Blender:
    """A local blend at work: collects maps, blends after every step."""

    def __init__(self, blend: LocalBlend, rows: Rows, words: Sequence[Tensor | None]) -> None:
        self._blend, self._rows, self._words = blend, rows, words
        self._sum: dict[int, Tensor] = {}  # image -> (2, height, width), summed over the run
        self._size: tuple[int, int] = (0, 0)
        self._owed: int | None = None  # step whose latents are still to be blended
        self._start = 0

    def begin(self, steps: int) -> None:
        """Forget the previous run; this one has `steps` steps."""
        self._sum, self._owed = {}, None
        self._start = int(self._blend.begin * steps)

    def on_call(self, context: CallContext) -> None:
        """Note that a denoiser call begins, and that the previous step was blended."""
        if context.info is None:
            return
        if self._owed is not None and self._owed != context.info.step:
            raise ControlNotApplied(
                f"The latents of step {self._owed} were not blended: they did not come from "
                "pipeline.scheduler.step. Use that for every step, or drop the local blend."
            )
        self._size = context.latent
        self._owed = context.info.step

    def wants(self, tokens: int, grid: tuple[int, int], scale: int) -> bool:
        """Whether a layer with this many picture tokens gives maps."""
        if grid[0] * grid[1] != tokens:
            return False
        return scale == 4 if self._blend.tokens is None else tokens == self._blend.tokens

    def add(self, image: int, probabilities: Tensor, grid: tuple[int, int]) -> None:
        """Add one layer's maps: (heads, picture tokens, words) of one image, after replacement."""
        words = self._words[image]
        if words is None:
            return
        each = [
            (probabilities * weights).sum(-1).float().mean(0).reshape(grid)
            for weights in words.to(probabilities)
        ]
        one = torch.stack(each)
        self._sum[image] = self._sum[image] + one if image in self._sum else one

    def step(self, latents: Tensor) -> Tensor:
        """Blend the latents (images, c, h, w) after a step; sources keep every bit."""
        step, self._owed = self._owed, None
        if step is None or step < self._start:
            return latents
        if latents.shape[0] != self._rows.images:
            raise RowsError(
                f"The scheduler stepped {latents.shape[0]} latents but the rows are of "
                f"{self._rows.images} images; sources and targets take their steps together."
            )
        if not self._sum:
            size = f"{self._blend.tokens} tokens" if self._blend.tokens else "a quarter of the side"
            raise MaskError(
                f"No cross-attention layer of this run has {size}, so there are no maps to blend "
                "by. Set tokens to the size of a layer, or to None for a quarter of the latents."
            )
        blended = latents.clone()
        for image in self._rows.targets:
            source = self._rows.reads[image][0]
            maps = torch.stack([self._sum[source], self._sum[image]])
            mask = blend_mask(maps[:, 0], self._size, self._blend.threshold).any(0)
            if self._blend.subtract:
                k = self._blend.subtract_threshold
                mask &= ~blend_mask(maps[:, 1], self._size, k, pool=False).any(0)
            z_s = latents[source]
            blended[image] = z_s + mask.to(z_s) * (latents[image] - z_s)
        return blended


@contextmanager
def blended_steps(pipeline: DiffusionPipeline, blend: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Blend what `pipeline.scheduler.step` makes inside the `with` block; put back also by errors.

    `blend` maps the latents (images, c, h, w) after a step to those to go on with.
    """
    scheduler: Any = pipeline.scheduler
    inner = scheduler.step
    own = vars(scheduler).get("step")

    @functools.wraps(inner)
    def step(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        if isinstance(result, tuple):
            return (blend(result[0]), *result[1:])
        result.prev_sample = blend(result.prev_sample)
        return result

    scheduler.step = step
    try:
        yield
    finally:
        if own is None:
            del scheduler.step
        else:
            scheduler.step = own
