"""M* of Prompt-to-Prompt for every pair of source and target; equations in `prompt_to_prompt`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor

from masactrl.errors import PromptError
from masactrl.methods.steps import window, window_steps
from masactrl.methods.words import refinement, replacement, word_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.attention.control_hooks import CallContext
    from masactrl.attention.layers import AttentionLayer
    from masactrl.methods.local_blend import Blender
    from masactrl.methods.prompt_to_prompt import PromptToPrompt

__all__ = ["WordEdit", "word_windows"]


def word_windows(
    steps: int,
    words: int,
    default: float | tuple[float, float],
    windows: Sequence[tuple[Sequence[int], float, float]],
) -> Tensor:
    """a_t: (steps + 1, words) in {0, 1}, counted as published, in parts of steps + 1.

    `default` is the window of all words, its end or (begin, end), `windows` (token numbers, begin,
    end) those of single words.
    """
    a = torch.zeros(steps + 1, words, dtype=torch.float32, device="cpu")
    first, last = (int(part * (steps + 1)) for part in window(default))
    a[first:last] = 1.0
    for tokens, begin, end in windows:
        of_word = torch.zeros(steps + 1, dtype=torch.float32, device="cpu")
        of_word[int(begin * (steps + 1)) : int(end * (steps + 1))] = 1.0
        a[:, list(tokens)] = of_word[:, None]
    return a


class _Pair:
    """The word alignment of one target with its source."""

    def __init__(self, method: PromptToPrompt, tokenizer: Any, source: str, target: str) -> None:
        self.words = int(tokenizer.model_max_length)
        self.W: Tensor | None = None
        published = method.as_published
        if method.edit == "replace":
            self.W = replacement(tokenizer, source, target, published=published)
        self.A: Tensor | None = None
        self.alpha: Tensor | None = None
        if method.edit == "refine":
            self.A, self.alpha = refinement(tokenizer, source, target, published=published)
        self.c: Tensor | None = None
        if method.reweight:
            self.c = torch.ones(self.words, dtype=torch.float32, device="cpu")
            for word, strength in method.reweight:
                self.c[list(word_tokens(tokenizer, target, word))] = float(strength)
        self.windows = [
            (word_tokens(tokenizer, target, word), begin, end)
            for word, begin, end in method.cross_words
        ]

    def edit(self, M_s: Tensor, M: Tensor) -> Tensor:
        """Edit(M_s, M), all (heads, picture tokens, words)."""
        edited = M_s
        if self.W is not None:
            edited = M_s @ self.W.to(M_s)
        elif self.A is not None and self.alpha is not None:
            alpha = self.alpha.to(M_s)
            edited = alpha * M_s[..., self.A.to(M_s.device)] + (1 - alpha) * M
        return edited if self.c is None else self.c.to(M_s) * edited


class WordEdit:
    """The edit of all pairs at all steps of a run."""

    def __init__(
        self,
        pairs: Sequence[_Pair],
        images: Sequence[tuple[int, int]],
        cross: tuple[float, float],
    ) -> None:
        self._pairs, self._images, self._cross = pairs, images, cross
        self._windows: list[Tensor] = []
        self.blender: Blender | None = None
        self.steps: frozenset[int] = frozenset()

    @classmethod
    def of(
        cls,
        method: PromptToPrompt,
        tokenizer: Any,
        prompts: Sequence[tuple[str, str]],
        images: Sequence[tuple[int, int]],
    ) -> Self:
        """Align the (source, target) prompts of all pairs; `images` are (target, source).

        Raises `PromptError` for a named word that no target prompt holds.
        """
        named = [word for word, _ in method.reweight]
        named += [word for word, _, _ in method.cross_words]
        for word in named:
            if prompts and not any(word_tokens(tokenizer, target, word) for _, target in prompts):
                raise PromptError(
                    f"The word {word!r} is in none of the target prompts; name words of them."
                )
        pairs = [_Pair(method, tokenizer, source, target) for source, target in prompts]
        return cls(pairs, images, window(method.cross))

    def begin(self, steps: int) -> None:
        """Lay the windows out for a run of `steps` steps."""
        window_steps(self._cross, steps, more=1)  # says so when the window covers no step
        self._windows = [
            word_windows(steps, pair.words, self._cross, pair.windows) for pair in self._pairs
        ]
        self.steps = frozenset(
            step for step in range(steps) if any(bool(a[step].any()) for a in self._windows)
        )

    def __call__(
        self, context: CallContext, layer: AttentionLayer, pair: int, source: Tensor, target: Tensor
    ) -> Tensor | None:
        """M* of one target, or None after its window; see `Edit`."""
        step = -1 if context.info is None else context.info.step
        made: Tensor | None = None
        if step in self.steps:
            a_t = self._windows[pair][step].to(target)
            made = a_t * self._pairs[pair].edit(source, target) + (1 - a_t) * target
        self._note(context, layer, pair, source, target if made is None else made)
        return made

    def _note(
        self, context: CallContext, layer: AttentionLayer, pair: int, source: Tensor, target: Tensor
    ) -> None:
        """Give the maps to the local blend, the source's once for all its targets."""
        grid = layer.grid(*context.latent)
        blender = self.blender
        if blender is None or layer.place == "mid":
            return
        if not blender.wants(target.shape[-2], grid, layer.scale):
            return
        image, read = self._images[pair]
        blender.add(image, target, grid)
        if all(other != read for _, other in self._images[:pair]):
            blender.add(read, source, grid)
