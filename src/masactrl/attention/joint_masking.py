r"""Masks from named words in joint attention, where text and picture attend together.

    a_l = sum over the words' tokens w of   mean over heads of softmax(q_w K^T / sqrt(d))_image

q_w is the query of a text token, K are all keys, and of what it reads the picture's part is kept:
where a word looks in the picture. The mean of a_l over the controlled layers is the soft map; the
masks of a step are cut from the maps of the step before, so every controlled layer has them,
whichever is the first. A U-Net has cross-attention for this; see `masactrl.attention.masking`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from diffusers.models.embeddings import apply_rotary_emb
from torch import Tensor, nn

from masactrl.attention.control_hooks import PlainHook
from masactrl.attention.layers import check_tokens
from masactrl.attention.masking import MaskUse, branch_rows, check_count
from masactrl.attention.masks import OnEmpty, WordMasks, binary, normalised
from masactrl.attention.words import token_numbers
from masactrl.errors import ConfigError, MaskError, PromptError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.features import SourceFeatures
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.networks import DenoiserCall, Network
    from masactrl.attention.positions import Rotary
    from masactrl.attention.rows import Rows
    from masactrl.attention.steps import StepInfo

__all__ = ["JointWordMasker", "words_in_picture"]

_KEY = -2  # the layer number under which a recording holds maps of several layers together


def words_in_picture(
    module: Any,
    image: Tensor,
    text: Tensor,
    words: Sequence[int],
    rotary: Rotary | None,
    *,
    joined: bool,
    text_first: bool,
) -> Tensor:
    """Where words look in the picture: (image tokens,), float32, at most 1 for every word.

    `image` and `text` (tokens, channels) are what enters the joint attention `module`, `words` are
    numbers of text tokens; `rotary` is that of all tokens; `joined` says that both have the same
    projections (FLUX's single blocks).
    """
    chosen = text[list(words)]
    if joined:
        queries, text_keys = (
            (module.to_q(chosen), module.norm_q),
            (module.to_k(text), module.norm_k),
        )
    else:
        queries = (module.add_q_proj(chosen), module.norm_added_q)
        text_keys = (module.add_k_proj(text), module.norm_added_k)
    q, k_text, k_image = (
        _heads(module, projected, norm)
        for projected, norm in (queries, text_keys, (module.to_k(image), module.norm_k))
    )
    parts = [k_text, k_image] if text_first else [k_image, k_text]
    keys = torch.cat(parts)
    if rotary is not None:
        keys = _rotated(keys, rotary)
        places = list(words)  # text comes first where there are rotary embeddings
        q = _rotated(q, (rotary[0][places], rotary[1][places]))
    scores = torch.einsum("whd,khd->hwk", q.float(), keys.float()) / q.shape[-1] ** 0.5
    weights: Tensor = scores.softmax(dim=-1).mean(dim=0).sum(dim=0)
    return weights[-image.shape[0] :] if text_first else weights[: image.shape[0]]


def _heads(module: Any, projected: Tensor, norm: Any) -> Tensor:
    """(tokens, heads, d)."""
    heads: Any = projected.unflatten(-1, (module.heads, -1))
    made: Tensor = heads if norm is None else norm(heads)
    return made


def _rotated(heads: Tensor, rotary: Rotary) -> Tensor:
    made: Any = apply_rotary_emb(heads[None], rotary, sequence_dim=1)
    turned: Tensor = made[0]
    return turned


class WordMapHook(PlainHook):
    """Computes where words look in one joint attention, whose own output is untouched."""

    def __init__(self, *, joined: bool, text_first: bool) -> None:
        super().__init__()
        self._joined, self._text_first = joined, text_first
        self.active = False
        self.text = 0
        self.first = 0  # the batch row of image 0 in the branch that carries the prompts
        self.words: Sequence[Sequence[int]] = ()
        self.map: Tensor | None = None

    def pre_forward(self, module: nn.Module, *args: object, **kwargs: object) -> object:
        """Keep the maps (images, tokens) and hand the inputs on as they came."""
        if self.active:
            hidden: Any = args[0] if args else kwargs["hidden_states"]
            states: Any = kwargs.get("encoder_hidden_states")
            if self._joined:
                states, hidden = hidden[:, : self.text], hidden[:, self.text :]
            rotary: Any = kwargs.get("image_rotary_emb")
            maps = [
                words_in_picture(
                    module,
                    hidden[self.first + image],
                    states[self.first + image],
                    words,
                    rotary,
                    joined=self._joined,
                    text_first=self._text_first,
                )
                for image, words in enumerate(self.words)
            ]
            self.map = torch.stack(maps)
        return args, kwargs


class JointWordMasker:
    """Masks from the words of the prompts, a step behind."""

    def __init__(
        self,
        wanted: WordMasks,
        *,
        pipeline: DiffusionPipeline,
        family: Network,
        rows: Rows,
        layers: Sequence[AttentionLayer],
        source: SourceFeatures | None = None,
        record: SourceFeatures | None = None,
    ) -> None:
        self.on_empty: OnEmpty = wanted.on_empty
        self._wanted, self._rows, self._layers = wanted, rows, layers
        self._source, self._record = source, record
        self._words = _word_places(wanted, pipeline, family, rows, recording=record is not None)
        self._captures = [
            (layer, WordMapHook(joined=layer.place == "single", text_first=family.text_first))
            for layer in layers
        ]
        self._maps: Tensor | None = None
        self._before: tuple[int, float] = (0, 0.0)
        self._soft: Tensor | None = None
        self._use: MaskUse | None = None

    def hooks(self) -> Sequence[tuple[nn.Module, PlainHook]]:
        """The joint attentions whose maps are read."""
        return [(layer.module, hook) for layer, hook in self._captures]

    def before(
        self, info: StepInfo, call: DenoiserCall, *, active: bool, soon: bool, number: int
    ) -> None:
        """Cut this step's masks, and get ready to read maps where the next step needs them."""
        if info.new_run:
            self._maps = self._soft = None
        if active and number == 0:
            self._cut(info, call)
        first = branch_rows(self._wanted, call.sample.shape[0], self._rows)
        for _, hook in self._captures:
            hook.active, hook.map = soon and number == 0, None
            hook.text, hook.first = call.text, first
            hook.words = self._words
        if soon and number == 0:
            self._check_words(call.text)

    def at(self, layer: AttentionLayer) -> MaskUse:
        """The masks of this step, the same for every layer."""
        if self._use is None:
            raise MaskError(f"{layer.name} runs before its masks were cut.")
        return self._use

    def after(self, info: StepInfo, _uses: Iterable[tuple[AttentionLayer, MaskUse]]) -> None:
        """Keep the maps for the next step and for the recording."""
        maps = [hook.map for _, hook in self._captures if hook.map is not None]
        for _, hook in self._captures:
            hook.active, hook.map = False, None
        if maps:
            self._maps = torch.stack(maps).mean(dim=0)
            self._before = (info.step, info.timestep)
            if self._record is not None:
                self._record.put_map(info.step, _KEY, self._maps, info.timestep)

    def _cut(self, info: StepInfo, call: DenoiserCall) -> None:
        if self._maps is None:
            raise MaskError(
                f"Step {info.step} is controlled, but no step before it has shown where the words "
                "look. Let the control begin at step 1 or later, or use GivenMasks."
            )
        maps = self._maps
        if self._source is not None:
            maps = torch.cat([maps, self._recorded(self._source).to(maps)])
        layer = self._layers[0]
        rows, columns = layer.grid(*call.size())
        check_tokens(layer.name, maps.shape[-1], rows * columns, "masks of words need")
        soft = normalised(maps.reshape(-1, rows, columns))
        if self._soft is not None:
            soft = torch.lerp(soft, self._soft, self._wanted.smoothing)
        self._soft = soft
        self._use = MaskUse(mask=binary(soft, self._wanted.threshold), map=soft)

    def _recorded(self, source: SourceFeatures) -> Tensor:
        step, timestep = self._before
        try:
            return source.get_map(step, timestep, _KEY)
        except ConfigError as error:
            raise ConfigError(
                f"Where the source's words look was not recorded at step {step}. Record with the "
                "same word masks as are used now."
            ) from error

    def _check_words(self, text: int) -> None:
        for words in self._words:
            late = [word for word in words if word >= text]
            if late:
                raise PromptError(
                    f"Token {late[0]} was named, but the text of this run has tokens 0 to "
                    f"{text - 1}. Name an earlier word, or raise max_sequence_length."
                )


def _word_places(
    wanted: WordMasks,
    pipeline: DiffusionPipeline,
    family: Network,
    rows: Rows,
    *,
    recording: bool,
) -> list[tuple[int, ...]]:
    """For every image the numbers of its words' tokens in the text that attends."""
    words = wanted.source_words if recording else wanted.words
    prompts = wanted.source_prompts if recording else wanted.prompts
    check_count("entries of words", len(words), rows.images, "images of the run")
    if prompts:
        check_count("prompts", len(prompts), rows.images, "images of the run")
    texts = _texts(pipeline, family)
    found: list[tuple[int, ...]] = []
    for image, entry in enumerate(words):
        given = (entry,) if isinstance(entry, (str, int)) else entry
        places = {word for word in given if isinstance(word, int)}
        named = tuple(word for word in given if isinstance(word, str))
        prompt = prompts[image] if prompts else None
        for tokenizer, offset in texts if named else ():
            places |= {offset + n for n in token_numbers(tokenizer, prompt, named)}
        found.append(tuple(sorted(places)))
    return found


def _texts(pipeline: DiffusionPipeline, family: Network) -> list[tuple[Any, int]]:
    """The tokenizers of the texts that attend, with the number of tokens before each."""
    texts: list[tuple[Any, int]] = []
    offset = 0
    for name in family.tokenizers:
        tokenizer: Any = getattr(pipeline, name, None)
        if tokenizer is not None:
            texts.append((tokenizer, offset))
            offset += int(tokenizer.model_max_length)
        elif name == "tokenizer":
            raise MaskError(
                f"{type(pipeline).__name__} was loaded without a tokenizer, so words cannot be "
                "found in prompts. Load it with one, or use GivenMasks."
            )
    return texts
