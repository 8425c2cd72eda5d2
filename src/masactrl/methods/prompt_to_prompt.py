r"""Prompt-to-Prompt (Hertz et al., ICLR 2023): the source's attention to words, other words.

    M* = a_t Edit(M_s, M) + (1 - a_t) M          cross-attention, conditional branch only

    replace    Edit(M_s, M)_ij = sum_l (M_s)_il  W_lj
    refine     Edit(M_s, M)_ij = alpha_j (M_s)_{i A(j)} + (1 - alpha_j) M_ij
    reweight   Edit(M_s, M)_ij = c_j (M_s)_ij    and on top of the other two, if words are named

    A(Q_s, K_s, V)                               self-attention at 16x16 and below, first steps

    M, M_s       attention probabilities of target and source, picture token i to word j
    W, A, alpha  word alignment, see `words`;    c_j  strength of word j
    a_t          1 in the first int(tau_c (N + 1)) of N steps, then 0; may differ by word
    tau_s        self-attention: the first int(tau_s N) steps
                 both may have a begin, too: from int(b N) to below int(e N)

A local blend keeps the rest of the picture, see `local_blend`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from masactrl.attention.attachment import attach
from masactrl.attention.control_hooks import HookSession, hooked
from masactrl.attention.networks import find_layers
from masactrl.attention.schedule import Schedule
from masactrl.attention.support import denoiser_of
from masactrl.errors import ConfigError, ControlNotApplied, UnsupportedPipeline
from masactrl.methods.cross_attention import CrossHook, check_cross
from masactrl.methods.local_blend import Blender, LocalBlend, blended_steps
from masactrl.methods.method import Parts, check_pairs, check_prompts
from masactrl.methods.steps import FirstSteps, check_window, window
from masactrl.methods.structure import structure_index, values_of
from masactrl.methods.word_edit import WordEdit
from masactrl.settings.checks import number, settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import Tensor

    from masactrl.attention.call import LayerCall
    from masactrl.attention.control_hooks import CallContext
    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["PromptToPrompt", "edited_words"]

EditKind = Literal["replace", "refine", "reweight"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptToPrompt:
    """Prompt-to-Prompt; raises `ConfigError` for values outside their range.

    `edit` is one of "replace" (prompts of equally many words), "refine" (any prompts), "reweight"
    (the same prompt). `cross` is tau_c and `self_attention` tau_s, both 0 (off) to 1, or
    (begin, end) as parts of the run.
    `cross_words` gives words of the target prompts a window of their own, (word, begin, end) as
    parts of the run; `reweight` gives words a strength, (word, c). Self-attention is replaced in
    layers of at most `self_tokens` picture tokens (256 is 16x16); None means a quarter of the
    latents' side and smaller, which is the same for a 512-pixel Stable Diffusion. `as_published`
    aligns words and padding behind a change of length as the published code does, see `words`.
    """

    edit: EditKind = "refine"
    cross: float | tuple[float, float] = 0.8
    self_attention: float | tuple[float, float] = 0.4
    cross_words: tuple[tuple[str, float, float], ...] = ()
    reweight: tuple[tuple[str, float], ...] = ()
    blend: LocalBlend | None = None
    self_tokens: int | None = 256
    as_published: bool = False
    name: ClassVar[str] = "prompt-to-prompt"
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        if isinstance(self.blend, Mapping):  # as a recipe or the command line writes it
            known = {field.name for field in fields(LocalBlend)}
            if unknown := sorted(set(map(str, self.blend)) - known):
                raise ConfigError(
                    f"blend has {', '.join(unknown)}; accepted are {', '.join(sorted(known))}."
                )
            try:
                object.__setattr__(self, "blend", LocalBlend(**self.blend))
            except TypeError as error:  # a field that has to be given is missing
                raise ConfigError(f"blend={self.blend!r} needs source and target words.") from error
        if self.blend is not None and not isinstance(self.blend, LocalBlend):
            raise ConfigError(f"blend={self.blend!r} was given; accepted is a LocalBlend.")
        if self.edit not in ("replace", "refine", "reweight"):
            raise ConfigError(
                f"edit={self.edit!r} was given; accepted are 'replace', 'refine', 'reweight'."
            )
        for name in ("cross", "self_attention"):
            object.__setattr__(self, name, check_window(name, getattr(self, name)))
        words = _entries("cross_words", self.cross_words, '("dog", begin, end)', 2)
        for word, begin, end in words:
            if not 0.0 <= begin <= end <= 1.0:
                raise ConfigError(
                    f"The window {begin} to {end} of the word {word!r} was given; accepted is "
                    "0 <= begin <= end <= 1."
                )
        object.__setattr__(self, "cross_words", words)
        strengths = _entries("reweight", self.reweight, '("dog", strength)', 1)
        object.__setattr__(self, "reweight", strengths)
        if self.edit == "reweight" and not self.reweight:
            raise ConfigError("edit='reweight' needs reweight=((word, strength), ...).")
        if self.self_tokens is not None and self.self_tokens < 1:
            raise ConfigError(f"self_tokens={self.self_tokens} was given; use 1 or more, or None.")

    @contextmanager
    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> Iterator[Parts]:
        """Edit attention inside the `with` block; yields the parts "cross" and "self".

        Raises `PromptError`, `RowsError`, `UnsupportedPipeline` before anything is changed,
        `MaskError` where a local blend finds no maps, and `ControlNotApplied` when the latest run
        was not controlled.
        """
        check_pairs(self.name, rows)
        given = check_prompts(self.name, rows, prompts)
        with ExitStack() as stack:
            blender = None
            if self.blend is not None:
                words = _blend_words(self.blend, _tokenizer(pipeline), rows, given)
                blender = Blender(self.blend, rows, words)
            cross = stack.enter_context(edited_words(self, pipeline, rows, given, blender))
            own = stack.enter_context(self._self_attention(pipeline, rows))
            yield Parts(
                by_name={"cross": cross, "self": own},
                after_step=None if blender is None else blender.step,
            )

    @contextmanager
    def _self_attention(self, pipeline: DiffusionPipeline, rows: Rows) -> Iterator[Attached]:
        schedule: Schedule = Schedule.never()
        layers = find_layers(denoiser_of(pipeline))
        begin, end = window(self.self_attention)
        if begin < end:
            small = tuple(s.index for s in layers if self.self_tokens is not None or s.scale >= 4)
            schedule = FirstSteps(begin=begin, part=end, layers=small)
        controlled: set[str] = set()
        with values_of(schedule.resolve_layers(layers)) as values:

            def control(call: LayerCall) -> Tensor:
                if self.self_tokens is not None and call.hidden.shape[1] > self.self_tokens:
                    return call.layer(call.hidden)
                controlled.add(call.name)
                bank = call.bank.shape[0]
                return values.attend(call, structure_index(call.rows, bank, only_conditional=True))

            with attach(pipeline, control, rows=rows, schedule=schedule) as attached:
                yield attached
        if begin < end and rows.targets and not controlled:
            raise ControlNotApplied(
                f"No self-attention layer of this run has at most {self.self_tokens} tokens, so "
                "none was replaced. Set self_tokens=None (a quarter of the latents' side and "
                "smaller), or self_attention=0 to replace none on purpose."
            )


@contextmanager
def edited_words(
    method: PromptToPrompt,
    pipeline: DiffusionPipeline,
    rows: Rows,
    prompts: Sequence[str],
    blender: Blender | None = None,
) -> Iterator[Attached]:
    """The cross-attention half of the method, and its local blend."""
    layers = [layer for layer in find_layers(denoiser_of(pipeline)) if layer.cross is not None]
    check_cross(layers)
    tokenizer = _tokenizer(pipeline)
    pairs = [(image, rows.reads[image][0]) for image in rows.targets]
    edit = WordEdit.of(method, tokenizer, [(prompts[s], prompts[t]) for t, s in pairs], pairs)
    edit.blender = blender
    edits = [CrossHook(layer, pairs, edit) for layer in layers]

    def steps(timesteps: Sequence[float]) -> frozenset[int]:
        edit.begin(len(timesteps))
        if blender is not None:
            blender.begin(len(timesteps))
        return edit.steps if blender is None else frozenset(range(len(timesteps)))

    def on_call(context: CallContext) -> None:
        if blender is not None:
            blender.on_call(context)

    session = HookSession(edits, rows=rows, steps=steps, on_call=on_call)
    with ExitStack() as stack:
        if blender is not None:
            stack.enter_context(blended_steps(pipeline, blender.step))
        hooks = [
            (layer.cross, one) for layer, one in zip(layers, edits, strict=True) if layer.cross
        ]
        yield stack.enter_context(hooked(pipeline, session, hooks))


def _entries(name: str, given: Any, like: str, numbers: int) -> tuple[tuple[Any, ...], ...]:
    """Words with their numbers as tuples; `ConfigError` for anything that is written otherwise."""
    entries = list(given) if isinstance(given, list | tuple) else [None]
    made: list[tuple[Any, ...]] = []
    for entry in entries:
        parts = list(entry) if isinstance(entry, list | tuple) else []
        try:
            if len(parts) != 1 + numbers or not isinstance(parts[0], str) or not parts[0].strip():
                raise TypeError
            made.append((parts[0], *(number(one) for one in parts[1:])))
        except TypeError:
            raise ConfigError(
                f"{name}={given!r} was given; accepted are entries ({like}, ...), each a word and "
                f"{'a number' if numbers == 1 else f'{numbers} numbers'}."
            ) from None
    return tuple(made)


def _tokenizer(pipeline: DiffusionPipeline) -> Any:
    tokenizer = getattr(pipeline, "tokenizer", None)
    if tokenizer is None:
        raise UnsupportedPipeline(
            f"{type(pipeline).__name__} has no tokenizer, so words cannot be aligned."
        )
    return tokenizer


def _blend_words(
    blend: LocalBlend, tokenizer: object, rows: Rows, prompts: Sequence[str]
) -> list[Tensor | None]:
    """Per image the weights (2, words), see `LocalBlend.words`; None where it takes no part."""
    words: list[Tensor | None] = [None] * rows.images
    for image in rows.targets:
        source = rows.reads[image][0]
        words[image] = blend.words(tokenizer, prompts[image], source=False)
        words[source] = blend.words(tokenizer, prompts[source], source=True)
        blend.check_subtracted(words[source], words[image], prompts[source], prompts[image])
    return words
