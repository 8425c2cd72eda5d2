"""Every rival against a literal transcription of its paper's equations, on final latents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from oracles import literal_rivals

from masactrl.attention import Rows
from masactrl.methods import LocalBlend, PlugAndPlay, PromptToPrompt, StyleAligned, Unified

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import DiffusionPipeline
    from torch import Tensor

PROMPTS = ["a cat sitting on snow", "a big dog sitting on snow", "a cat on red snow"]
SIZE = (24, 16)  # tokens: 384, 96, 24, 6
STEPS = 5
WORDS = 77


@pytest.fixture(scope="module")
def pipe() -> DiffusionPipeline:
    return tiny_models.sd()


def agree(
    pipe: DiffusionPipeline,
    method: Any,
    literal: Callable[[Any, int, int], literal_rivals.Rival],
    *,
    prompts: list[str] = PROMPTS,
    guidance: float = 7.5,
    size: tuple[int, int] = SIZE,
    fresh: Callable[[], DiffusionPipeline] = tiny_models.sd,
    **options: Any,
) -> None:
    """Final latents agree within 1e-4 of their range, and the edit is far larger than that."""
    rows = Rows.one_source(targets=len(prompts) - 1)
    run = {"size": size, "guidance": guidance, "steps": STEPS}
    plain = tiny_models.run(pipe, prompts, **run)
    with method.attach(pipe, rows, prompts=prompts):
        ours = tiny_models.run(pipe, prompts, **run)
    written_out = fresh()
    rival = literal(written_out.unet, len(prompts), 2 if guidance > 1 else 1)
    if getattr(rival, "blend_words", None) is not None:
        options["callback_on_step_end"] = lambda *a: {"latents": rival.blend(a[-1]["latents"])}
    theirs = tiny_models.run(written_out, prompts, **run, **options)
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() / scale < 1e-4
    for image in rows.targets:
        assert (ours - plain)[image].abs().max() / scale > 5e-3
    assert torch.equal(ours[0], plain[0])  # the source keeps every bit


# Written by hand: <start> a cat sitting on snow <end>, <start> a big dog sitting on snow <end>
# and <start> a cat on red snow <end>. Equal scores prefer the gap, so a replaced word is new.
REFINED = {1: [0, 1, -1, -1, 3, 4, 5, 6], 2: [0, 1, 2, 4, -1, 5, 6]}


def refine(image: int, base: Tensor, own: Tensor) -> Tensor:
    out = own.clone()
    for word in range(WORDS):
        table = REFINED[image]
        read = table[word] if word < len(table) else word
        if read >= 0:
            out[..., word] = base[..., read]
    return out


def windows(part: float) -> Tensor:
    alpha = torch.zeros(STEPS + 1, 3, WORDS)
    alpha[: int(part * (STEPS + 1))] = 1
    return alpha


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_refine(pipe: DiffusionPipeline, guidance: float) -> None:
    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.PromptToPrompt(
            unet,
            images=images,
            branches=branches,
            steps=STEPS,
            edit=refine,
            alpha=windows(0.6),
            self_part=0.5,
        )

    method = PromptToPrompt(cross=0.6, self_attention=0.5, as_published=True)
    agree(pipe, method, literal, guidance=guidance)


def test_replace_with_word_windows_and_reweighting(pipe: DiffusionPipeline) -> None:
    """cat (one token) becomes corgi (two), and snow behind it stays on the target's index."""
    prompts = ["a cat on snow", "a corgi on snow", "a dog on beach"]
    mapper = {}
    for image, pairs in {
        1: [(0, 0, 1), (1, 1, 1), (2, 2, 0.5), (2, 3, 0.5), *((j, j, 1) for j in range(4, WORDS))],
        2: [(j, j, 1) for j in range(WORDS)],
    }.items():
        mapper[image] = torch.zeros(WORDS, WORDS)
        for i, j, weight in pairs:
            mapper[image][i, j] = weight
    alpha = windows(0.8)
    alpha[:, 1, 5] = 0  # snow of target 1: from 0.2 to 0.5 of 6
    alpha[1:3, 1, 5] = 1
    strength = torch.ones(3, WORDS)
    strength[2, 2] = 3.0  # dog of target 2

    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.PromptToPrompt(
            unet,
            images=images,
            branches=branches,
            steps=STEPS,
            edit=lambda i, base, own: (base @ mapper[i]) * strength[i],
            alpha=alpha,
            self_part=0.4,
            self_tokens=24,
        )

    method = PromptToPrompt(
        edit="replace",
        as_published=True,
        cross=0.8,
        self_attention=0.4,
        self_tokens=24,
        cross_words=(("snow", 0.2, 0.5),),
        reweight=(("dog", 3.0),),
    )
    agree(pipe, method, literal, prompts=prompts)


def test_reweight_alone(pipe: DiffusionPipeline) -> None:
    strength = torch.ones(WORDS)
    strength[2] = -2.0

    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.PromptToPrompt(
            unet,
            images=images,
            branches=branches,
            steps=STEPS,
            edit=lambda _, base, own: base * strength,
            alpha=windows(1.0),
            self_part=0.4,
        )

    method = PromptToPrompt(edit="reweight", cross=1.0, reweight=(("cat", -2.0),))
    agree(pipe, method, literal, prompts=["a cat on snow", "a cat on snow"])


@pytest.mark.parametrize(
    ("size", "tokens", "grid", "ours"),
    [((16, 16), 256, (16, 16), 256), (SIZE, 24, (6, 4), None)],
    ids=["16x16", "a quarter of the side"],
)
def test_local_blend(
    pipe: DiffusionPipeline, size: Any, tokens: int, grid: Any, ours: int | None
) -> None:
    words = torch.zeros(3, WORDS)
    words[0, 2] = words[1, 3] = words[2, 2] = 1  # cat, dog, cat

    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.PromptToPrompt(
            unet,
            images=images,
            branches=branches,
            steps=STEPS,
            edit=refine,
            alpha=windows(0.4),
            self_part=0.4,
            blend_words=words,
            blend_tokens=tokens,
            blend_grid=grid,
        )

    blend = LocalBlend(source=("cat",), target=("dog", "cat"), threshold=0.3, tokens=ours)
    method = PromptToPrompt(cross=0.4, self_attention=0.4, blend=blend, as_published=True)
    agree(pipe, method, literal, size=size)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
@pytest.mark.parametrize(("features", "attention"), [(0.8, 0.5), (0.7, 0.0), (0.0, 0.9)])
def test_plug_and_play(
    pipe: DiffusionPipeline, features: float, attention: float, guidance: float
) -> None:
    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.PlugAndPlay(
            unet,
            images=images,
            branches=branches,
            steps=STEPS,
            feature_steps=int(features * STEPS),
            attention_steps=int(attention * STEPS),
            layers=range(8, 16),
        )

    method = PlugAndPlay(features=features, attention=attention)
    agree(pipe, method, literal, guidance=guidance)


@pytest.mark.parametrize("guidance", [7.5, 1.0])
def test_style_aligned(pipe: DiffusionPipeline, guidance: float) -> None:
    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.StyleAligned(unet, images=images, branches=branches, steps=STEPS)

    agree(pipe, StyleAligned(), literal, guidance=guidance)


def test_unified(pipe: DiffusionPipeline) -> None:
    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        return literal_rivals.Unified(
            unet,
            images=images,
            branches=branches,
            steps=STEPS,
            edit=refine,
            alpha=windows(0.7),
            rigid_steps=2,
            start_layer=6,
        )

    agree(pipe, Unified(cross=0.7, rigid=0.4, start_layer=6), literal)


@pytest.mark.parametrize("kind", ["prompt-to-prompt", "plug-and-play"])
def test_sdxl(kind: str) -> None:
    def literal(unet: Any, images: int, branches: int) -> literal_rivals.Rival:
        common = {"images": images, "branches": branches, "steps": STEPS}
        if kind == "prompt-to-prompt":
            return literal_rivals.PromptToPrompt(
                unet, edit=refine, alpha=windows(0.8), self_part=0.4, **common
            )
        return literal_rivals.PlugAndPlay(
            unet,
            feature_steps=4,
            attention_steps=2,
            layers=range(44, 70),
            block="up_blocks.0.resnets.1",
            **common,
        )

    method = PromptToPrompt(as_published=True) if kind == "prompt-to-prompt" else PlugAndPlay()
    agree(tiny_models.sdxl(), method, literal, size=(8, 8), fresh=tiny_models.sdxl)
