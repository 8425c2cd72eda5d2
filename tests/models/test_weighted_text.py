"""Weighted prompts at work: against a literal transcription of compel, on tiny networks."""

from __future__ import annotations

import copy
import importlib.util
import sys
from typing import Any

import pytest
import tiny_models
import torch
from oracles import literal_weights
from torch import Tensor

from masactrl.errors import ConfigError, UnsupportedPipeline
from masactrl.models.denoiser import Denoiser
from masactrl.models.drawing import draw
from masactrl.models.weighted_text import embeddings, weighed, weights_act
from masactrl.settings.prompt_weights import parse, without_weights

needs_compel = pytest.mark.skipif(
    importlib.util.find_spec("compel") is None, reason="weights need the extra prompts"
)

WEIGHTED = (
    "a (cat:1.4) sitting on the beach",
    "a ((red)) cat, [running] in the (snow:0.2)",
    "(a corgi:0) on the [(big:2) (green:0.3)] meadow",
    '(cat) (dog:0.5)+ -big "red" .5',
    "[" + "cat " * 70 + "(red dog horse bird:0.4) on the beach, facing (left:3)",  # is cut
)
PLAIN = ("a cat sitting on the beach", "", r"a cat \(sitting\)")


@pytest.fixture(scope="module")
def sd() -> Any:
    return tiny_models.sd()


@pytest.fixture(scope="module")
def sdxl() -> Any:
    return tiny_models.sdxl()


@pytest.fixture
def no_compel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *at: None if name == "compel" else real(name, *at)
    )
    monkeypatch.setitem(sys.modules, "compel", None)  # an import would fail


def close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def parts(prompt: str) -> list[tuple[str, float]]:
    return [(span.text, span.weight) for span in parse(prompt)]


def expected(pipeline: Any, prompt: str) -> Tensor:
    if getattr(pipeline, "text_encoder_2", None) is None:
        encode = literal_weights.last_hidden(pipeline.text_encoder)
        return literal_weights.weighted(pipeline.tokenizer, encode, parts(prompt))
    both = [
        literal_weights.weighted(tokenizer, literal_weights.penultimate(encoder), parts(prompt))
        for tokenizer, encoder in (
            (pipeline.tokenizer, pipeline.text_encoder),
            (pipeline.tokenizer_2, pipeline.text_encoder_2),
        )
    ]
    return torch.cat(both, dim=-1)


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("prompt", WEIGHTED[:4])
def test_embeddings_are_those_of_the_definition(
    kind: str, prompt: str, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(kind)
    text = Denoiser(pipeline).encode_text([prompt])
    plain = Denoiser(pipeline).encode_text([without_weights(prompt)])
    assert close(text.hidden, expected(pipeline, prompt))
    assert float((text.hidden - plain.hidden).abs().max()) > 0.01
    if kind == "sdxl":
        assert text.pooled is not None
        assert plain.pooled is not None
        assert torch.equal(text.pooled, plain.pooled)


@needs_compel
def test_a_weight_of_a_word_changes_the_word_alone(sd: Any) -> None:
    plain, weighted = Denoiser(sd).encode_text(["a cat running", "a (cat:1.5) running"]).hidden
    nothing = Denoiser(sd).encode_text([""]).hidden[0]
    others = [number for number in range(77) if number != 2]
    assert close(weighted[others], plain[others])
    assert close(weighted[2], nothing[2] + 1.5 * (plain[2] - nothing[2]))
    less = Denoiser(sd).encode_text(["a (cat:0.5) running"]).hidden[0]
    assert float((less[3] - plain[3]).abs().max()) > 0.01  # what follows no longer sees it


@needs_compel
def test_no_words_are_left_of_a_weight_of_nothing(sd: Any) -> None:
    gone = Denoiser(sd).encode_text(["(cat:0) running"]).hidden[0]
    dog = Denoiser(sd).encode_text(["(dog:0) running"]).hidden[0]
    assert torch.allclose(gone, dog, atol=1e-3)


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_a_prompt_that_is_too_long_is_cut_as_the_pipeline_does(
    kind: str, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(kind)
    words = " ".join(["cat dog"] * 60)
    for prompt in (f"({words}:1.3)", f"{words} (red:2)", f"(a:1.2) {words} [red]", WEIGHTED[4]):
        text = Denoiser(pipeline).encode_text([prompt]).hidden
        assert text.shape[1] == 77
        assert bool(text.isfinite().all())
    beyond = Denoiser(pipeline).encode_text([f"{words} (red:2)"]).hidden
    assert close(beyond, Denoiser(pipeline).encode_text([words]).hidden)


@needs_compel
def test_the_tokens_that_compel_encodes_are_those_without_weights(sd: Any) -> None:
    seen: list[list[int]] = []

    def note(_module: Any, args: tuple[Any, ...]) -> None:
        seen.append(args[0][0].tolist())

    for prompt in WEIGHTED:
        hook = sd.text_encoder.register_forward_pre_hook(note)
        try:
            weighed(sd, [prompt], torch.zeros(1, 77, tiny_models.TEXT_WIDTH))
        finally:
            hook.remove()
        ids = sd.tokenizer(without_weights(prompt), padding="max_length", truncation=True).input_ids
        assert ids in seen
        # The others are those of no words, from which weights lead away.
        assert {tuple(one) for one in seen} <= {tuple(ids), (0, *(1,) * 76)}
        seen.clear()


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_without_weights_compel_is_not_asked(
    kind: str, request: pytest.FixtureRequest, no_compel: None
) -> None:
    pipeline = request.getfixturevalue(kind)
    said = [without_weights(prompt) for prompt in PLAIN]
    encoded = pipeline.encode_prompt(
        said, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    own = encoded[0]
    assert weighed(pipeline, PLAIN, own) is own
    hidden = Denoiser(pipeline).encode_text(PLAIN).hidden
    said_something = [0, 2]  # SDXL's base has zeros for no words
    assert torch.equal(hidden[said_something], own[said_something])


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_rows_without_weights_stay_to_the_bit_beside_rows_with_some(
    kind: str, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(kind)
    beside = Denoiser(pipeline).encode_text([PLAIN[0], WEIGHTED[0]])
    alone = Denoiser(pipeline).encode_text([PLAIN[0], without_weights(WEIGHTED[0])])
    assert torch.equal(beside.hidden[0], alone.hidden[0])
    assert not torch.equal(beside.hidden[1], alone.hidden[1])


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_weights_of_nearly_one_are_nearly_nothing(
    kind: str, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(kind)
    plain = Denoiser(pipeline).encode_text(["a cat running"]).hidden
    for weight in ("1.0000001", "0.9999999"):
        near = Denoiser(pipeline).encode_text([f"a (cat:{weight}) running"]).hidden
        assert close(near, plain)


def drawn(pipeline: Any, prompt: str, negative: str = "", guidance: float = 4.0) -> Tensor:
    latents = tiny_models.noise(1)
    return draw(
        pipeline,
        [prompt],
        latents,
        steps=2,
        guidance_scale=guidance,
        negative_prompt=negative,
    )


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_pictures_of_embeddings_are_those_of_their_prompts(
    kind: str, guidance: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way by embeddings changes nothing by itself, to the bit."""
    pipeline = request.getfixturevalue(kind)
    pipeline.set_progress_bar_config(disable=True)
    for negative in ("", "a red horse") if guidance > 1 else ("",):
        plain = drawn(pipeline, "a cat running", negative, guidance)
        monkeypatch.setattr("masactrl.models.drawing.is_weighted", lambda prompt: True)
        assert torch.equal(drawn(pipeline, "a cat running", negative, guidance), plain)
        monkeypatch.undo()


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_weights_act_in_prompt_and_negative_prompt(
    kind: str, request: pytest.FixtureRequest
) -> None:
    pipeline = request.getfixturevalue(kind)
    plain = drawn(pipeline, "a cat running", "a red horse")
    more = drawn(pipeline, "a (cat:1.6) running", "a red horse")
    less = drawn(pipeline, "a cat running", "a (red:0.2) horse")
    assert float((more - plain).abs().max()) > 1e-4
    assert float((less - plain).abs().max()) > 1e-4
    with pytest.raises(ConfigError, match="guidance is off"):
        drawn(pipeline, "a cat running", "a (red:0.2) horse", guidance=1.0)


@needs_compel
def test_embeddings_have_the_pipelines_own_beside_the_weighted_ones(sdxl: Any) -> None:
    given = embeddings(sdxl, ["a (cat:1.4)", "a dog"], "a red [horse]", guided=True)
    plain = embeddings(sdxl, ["a cat", "a dog"], "a red horse", guided=True)
    assert set(given) == {
        "prompt_embeds",
        "negative_prompt_embeds",
        "pooled_prompt_embeds",
        "negative_pooled_prompt_embeds",
    }
    for name in ("pooled_prompt_embeds", "negative_pooled_prompt_embeds"):
        assert torch.equal(given[name], plain[name])
    assert torch.equal(given["prompt_embeds"][1], plain["prompt_embeds"][1])
    assert close(given["prompt_embeds"][:1], expected(sdxl, "a (cat:1.4)"))
    assert close(given["negative_prompt_embeds"][1:], expected(sdxl, "a red [horse]"))


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_without_the_extra_weights_are_left_out(
    kind: str, request: pytest.FixtureRequest, no_compel: None
) -> None:
    pipeline = request.getfixturevalue(kind)
    assert not weights_act()
    with_some = drawn(pipeline, "a (cat:1.4) [running]", "a ((red)) horse")
    assert torch.equal(with_some, drawn(pipeline, "a cat running", "a red horse"))
    text = Denoiser(pipeline).encode_text(["a (cat:1.4)"])
    assert torch.equal(text.hidden, Denoiser(pipeline).encode_text(["a cat"]).hidden)


@needs_compel
def test_weights_without_any_tokens_are_none(sd: Any) -> None:
    blank = "\u3000"  # a space
    hidden = Denoiser(sd).encode_text([f"a (cat:2) ({blank}:0.5) ( :0.4)"]).hidden
    assert close(hidden, Denoiser(sd).encode_text(["a (cat:2)"]).hidden)


@needs_compel
def test_half_precision_stays(sd: Any) -> None:
    half = copy.deepcopy(sd).to(torch.bfloat16)
    hidden = Denoiser(half).encode_text([WEIGHTED[1]]).hidden
    assert hidden.dtype == torch.bfloat16
    exact = Denoiser(sd).encode_text([WEIGHTED[1]]).hidden
    assert float((hidden.float() - exact).abs().max() / exact.abs().max()) < 0.03


@needs_compel
def test_weights_of_an_offloaded_model_act(sd: Any) -> None:
    from accelerate import cpu_offload

    away = copy.deepcopy(sd)
    for part in (away.vae, away.text_encoder, away.unet):
        cpu_offload(part, execution_device=torch.device("cpu"))
    assert away.text_encoder.device.type == "meta"
    for prompt in WEIGHTED[:2]:
        hidden = Denoiser(away).encode_text([prompt]).hidden
        assert torch.equal(hidden, Denoiser(sd).encode_text([prompt]).hidden)


@pytest.fixture
def inverted_word() -> Any:
    """A pipeline that learned a word of two vectors by textual inversion."""
    pipeline = tiny_models.sd()
    width = tiny_models.TEXT_WIDTH
    vectors = torch.randn(2, width, generator=torch.Generator().manual_seed(5))
    pipeline.load_textual_inversion(vectors, token="<toy>")
    return pipeline


@needs_compel
def test_weights_of_a_word_of_textual_inversion_act_on_all_its_tokens(inverted_word: Any) -> None:
    pipeline = inverted_word
    text = Denoiser(pipeline).encode_text(["a (<toy>:1.5) running", "a <toy> running", ""]).hidden
    weighted, plain, nothing = text
    for token in (2, 3):
        assert close(weighted[token], nothing[token] + 1.5 * (plain[token] - nothing[token]))
    assert close(weighted[4:], plain[4:])


@needs_compel
def test_another_way_of_encoding_text_is_refused(sd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sd, "encode_prompt", lambda **_: (torch.zeros(1, 77, 8), None))
    with pytest.raises(UnsupportedPipeline, match=r"\(77, 8\).*compel into \(77, 16\)"):
        Denoiser(sd).encode_text(["a (cat:1.2)"])
