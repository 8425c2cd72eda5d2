"""Weights in prompts, from the request to the picture: generate, edit, words, recipes, warnings."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from editing_parts import loaded, outcome, random_picture, relative
from PIL import Image
from torch import Tensor

from masactrl import EditMasks, EditRequest, GenerateRequest, InversionRequest, generate, invert
from masactrl.cli import main
from masactrl.errors import ControlWarning, PromptError
from masactrl.methods import METHODS, methods_of
from masactrl.models import LoadedModel
from masactrl.pictures.images import read_recipe
from masactrl.runs.prompts import prompt_warnings
from masactrl.settings.prompt_weights import without_weights
from masactrl.settings.shared import FROM_SOURCE
from masactrl.studies.ablation import ablate
from masactrl.studies.compare import compare_generated

needs_compel = pytest.mark.skipif(
    importlib.util.find_spec("compel") is None, reason="weights need the extra prompts"
)

SOURCE, TARGET = "a (cat:1.5) sitting in snow", "a [cat] (running:1.3) in snow"


@pytest.fixture
def no_compel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the extra is not installed."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *at: None if name == "compel" else real(name, *at)
    )


@pytest.fixture(scope="module")
def sdxl() -> LoadedModel:
    return replace(loaded(tiny_models.sdxl(), layer=44), family="sdxl")


def request(**values: Any) -> GenerateRequest:
    usual: dict[str, Any] = {
        "source_prompt": SOURCE,
        "target_prompts": (TARGET,),
        "steps": 3,
        "height": 32,
        "width": 32,
        "start_step": 1,
    }
    return GenerateRequest(**{**usual, **values})


def bare(asked: GenerateRequest) -> GenerateRequest:
    """The same request without weights."""
    return replace(
        asked,
        source_prompt=without_weights(asked.source_prompt),
        target_prompts=tuple(map(without_weights, asked.target_prompts)),
        negative_prompt=without_weights(asked.negative_prompt),
    )


def apart(one: Image.Image, other: Image.Image) -> int:
    levels = [
        torch.frombuffer(bytearray(i.tobytes()), dtype=torch.uint8).int() for i in (one, other)
    ]
    return int((levels[0] - levels[1]).abs().max())


@needs_compel
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_weights_of_source_and_target_act_in_generated_pictures(
    kind: str, model: LoadedModel, sdxl: LoadedModel
) -> None:
    used = model if kind == "sd" else sdxl
    own = {"start_layer": 44} if kind == "sdxl" else {}
    asked = request(**own)
    with_some, without = generate(used, asked), generate(used, bare(asked))
    for name, picture in with_some.pictures().items():
        assert apart(picture, without.pictures()[name]) > 0, name
    assert with_some.warnings == ()
    assert with_some.request.source_prompt == SOURCE
    assert with_some.targets[0].prompt == TARGET
    # Each has its own weights: those of the source reach the target through the control alone.
    mixed = generate(used, replace(asked, source_prompt=without_weights(SOURCE)))
    assert apart(mixed.source, without.source) == 0
    assert apart(mixed.targets[0].uncontrolled, with_some.targets[0].uncontrolled) == 0
    assert apart(mixed.targets[0].controlled, with_some.targets[0].controlled) > 0


@needs_compel
def test_weights_of_negative_prompts_act(model: LoadedModel) -> None:
    asked = bare(request(negative_prompt="a (red:1.8) horse"))
    usual = replace(asked, negative_prompt="a (red:1.8) horse")
    assert apart(generate(model, usual).source, generate(model, asked).source) > 0


def test_escaped_brackets_are_letters(model: LoadedModel) -> None:
    asked = request(source_prompt=r"a cat \(sitting\)", target_prompts=("a cat",))
    pipeline, noise = model.pipeline, torch.Generator().manual_seed(0)
    expected = pipeline(
        prompt="a cat (sitting)",
        height=32,
        width=32,
        num_inference_steps=3,
        latents=torch.randn(1, 4, 4, 4, generator=noise),
        output_type="pil",
    ).images[0]
    assert apart(generate(model, asked).source, expected) <= 1  # alone in its batch


@needs_compel
@pytest.mark.parametrize("name", sorted(methods_of("diffusion")))
def test_every_method_takes_weights(name: str, model: LoadedModel) -> None:
    options: dict[str, dict[str, Any]] = {
        "prompt-to-prompt": {"reweight": (("running", 2.0),)},
        "imagic": {"text_steps": 2, "tuning_steps": 2},
        "blended-latent": {"threshold": 0.4},
    }
    own = {"method": name, "method_options": options.get(name, {}), "steps": 4}
    asked = request(start_step=1 if name == "masactrl" else None, **own)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ControlWarning)
        found, plain = generate(model, asked), generate(model, bare(asked))
    target = found.targets[0]
    assert apart(target.controlled, plain.targets[0].controlled) > 0
    if name not in (*FROM_SOURCE, "fixed-seed"):
        assert apart(target.controlled, target.uncontrolled) > 0


Spied = Callable[[str], list[Any]]


@pytest.fixture
def spied(monkeypatch: pytest.MonkeyPatch) -> Spied:
    """`spied(method)` lists the prompts that the method's attachments are given from now on."""

    def of(name: str) -> list[Any]:
        seen: list[Any] = []
        kind, attach = METHODS[name], METHODS[name].attach

        def noting(self: Any, pipeline: Any, rows: Any, *, prompts: Any = None, **more: Any) -> Any:
            seen.append(list(prompts))
            return attach(self, pipeline, rows, prompts=prompts, **more)

        monkeypatch.setattr(kind, "attach", noting)
        return seen

    return of


@needs_compel
def test_words_are_aligned_without_weights(model: LoadedModel, spied: Spied) -> None:
    seen = spied("prompt-to-prompt")
    options = {"reweight": (("running", 2.0),)}
    asked = request(method="prompt-to-prompt", method_options=options, start_step=None)
    generate(model, asked)
    said = [without_weights(one) for one in (SOURCE, TARGET, TARGET)]
    assert seen == [said]
    session = invert(model, random_picture(), InversionRequest(source_prompt=SOURCE, steps=3))
    edit = EditRequest(
        target_prompts=(TARGET,), method="prompt-to-prompt", method_options=options, mode="joint"
    )
    session.edit(edit)
    assert seen[1:] == [said]
    with pytest.raises(PromptError, match="in none of the target prompts"):
        generate(model, replace(asked, method_options={"reweight": (("1.3", 2.0),)}))


def edited(session: Any, target: str, **options: Any) -> Tensor:
    return outcome(session, EditRequest(target_prompts=(target,), **options)).controlled


@pytest.fixture(scope="module")
def tiny() -> LoadedModel:
    return loaded(tiny_models.sd())


@needs_compel
@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_weights_of_source_and_target_act_in_edits(mode: str, tiny: LoadedModel) -> None:
    weighted = invert(tiny, random_picture(), InversionRequest(source_prompt=SOURCE))
    plain = invert(tiny, random_picture(), InversionRequest(source_prompt=without_weights(SOURCE)))
    assert weighted.trajectory.prompt == SOURCE
    assert relative(weighted.trajectory.latents[0], plain.trajectory.latents[0]) > 1e-4
    own = {"mode": mode, "half": False} if mode == "cached" else {"mode": mode}
    usual = edited(weighted, TARGET, **own)
    assert relative(usual, edited(weighted, without_weights(TARGET), **own)) > 1e-4
    assert relative(usual, edited(plain, TARGET, **own)) > 1e-4
    negative = edited(weighted, TARGET, negative_prompt="a (red:1.6) dog", **own)
    assert relative(negative, edited(weighted, TARGET, negative_prompt="a red dog", **own)) > 1e-4


@needs_compel
@pytest.mark.parametrize("inversion", ["null-text", "negative-prompt"])
def test_inversions_that_live_on_the_prompt_take_weights(inversion: str, tiny: LoadedModel) -> None:
    own = {"iterations": 1} if inversion == "null-text" else {}
    made = [
        invert(
            tiny, random_picture(), InversionRequest(source_prompt=prompt, method=inversion, **own)
        )
        for prompt in (SOURCE, without_weights(SOURCE))
    ]
    assert relative(edited(made[0], TARGET), edited(made[1], TARGET)) > 1e-4


@needs_compel
def test_joint_and_cached_edits_agree_on_weights(tiny: LoadedModel) -> None:
    session = invert(tiny, random_picture(), InversionRequest(source_prompt=SOURCE))
    joint = edited(session, TARGET, mode="joint")
    assert relative(edited(session, TARGET, mode="cached", half=False), joint) < 1e-4


@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_masks_by_words_find_the_tokens_without_weights(mode: str, tiny: LoadedModel) -> None:
    masks = EditMasks(source="cat", targets="running", threshold=0.4)
    source, target = "a ((small) cat:1.0)", "a (very \\(big\\) [dog:1.0)] running"
    session = invert(tiny, random_picture(), InversionRequest(source_prompt=source))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ControlWarning)
        result = session.edit(EditRequest(target_prompts=(target,), masks=masks, mode=mode))
        assert result.mask is not None
        with pytest.raises(PromptError, match=r"'1' is not in the prompt 'a small cat'"):
            session.edit(
                EditRequest(target_prompts=(target,), masks=replace(masks, source="1"), mode=mode)
            )


def test_an_ablation_finds_words_of_weighted_prompts(tiny: LoadedModel) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ControlWarning)
        asked = request(steps=2, start_step=None)
        result = ablate(tiny, asked, words=("cat", "running"))
    assert [row.name for row in result.rows][-1] == "masks"
    assert result.source_prompt == SOURCE


@needs_compel
def test_comparisons_and_their_methods_see_weights(tiny: LoadedModel) -> None:
    methods = ("masactrl", "prompt-to-prompt")
    asked = request(start_step=None)
    found = compare_generated(tiny, asked, methods=methods)
    plain = compare_generated(tiny, bare(asked), methods=methods)
    assert (found.source_prompt, found.target_prompt) == (SOURCE, TARGET)
    for one, other in zip(found.columns, plain.columns, strict=True):
        assert apart(one.image, other.image) > 0, one.method


@pytest.fixture
def made(model_folder: Path, tmp_path: Path) -> tuple[Path, list[str]]:
    """The folder of a run with weights, and the words that name its model."""
    words = ["generate", SOURCE, "--to", TARGET, "--negative", "(red)", "--steps", "2"]
    words += ["--model", str(model_folder), "--start-step", "1", "--size", "32x32"]
    assert main([*words, "--device", "cpu", "-o", str(tmp_path / "o")]) == 0
    return tmp_path / "o", ["--model", str(model_folder)]


@needs_compel
def test_a_recipe_keeps_the_prompts_as_written(
    made: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = made
    recipe = read_recipe(folder / "target1-controlled.png")
    assert recipe is not None
    assert recipe["request"]["source_prompt"] == SOURCE
    assert recipe["request"]["target_prompts"] == [TARGET]
    assert recipe["request"]["negative_prompt"] == "(red)"
    capsys.readouterr()
    for name in ("source", "target1-controlled"):
        assert main(["rerun", str(folder / f"{name}.png"), *model]) == 0
        shown = capsys.readouterr()
        assert shown.out == "The picture is the same to the bit.\n"
        assert shown.err == ""


@needs_compel
def test_an_edit_with_weights_is_made_again(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    random_picture().save(photo)
    words = ["edit", str(photo), "--from", SOURCE, "--to", TARGET, "--steps", "2"]
    words += ["--start-step", "1", "--device", "cpu", "--mask-word", "running"]
    words += ["--source-mask-word", "cat", "--model", str(model_folder)]
    assert main([*words, "-o", str(tmp_path / "o")]) == 0
    capsys.readouterr()
    again = ["rerun", str(tmp_path / "o" / "target1-controlled.png"), "--input", str(photo)]
    assert main([*again, "--model", str(model_folder)]) == 0
    assert capsys.readouterr().out == "The picture is the same to the bit.\n"


def test_without_the_extra_one_sentence_names_it(
    model: LoadedModel, no_compel: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (sentence,) = prompt_warnings(model, ["a cat", SOURCE, TARGET, "(red)"])
    assert "pip install 'masactrl[prompts]'" in sentence
    assert SOURCE in sentence
    with pytest.warns(ControlWarning, match=r"left out.*masactrl\[prompts\]") as caught:
        found = generate(model, request())
    assert len(caught) == 1
    assert found.warnings == (sentence,)
    plain = generate(model, bare(request()))
    for name, picture in found.pictures().items():
        assert apart(picture, plain.pictures()[name]) == 0, name
    assert prompt_warnings(model, ["a cat", r"a \(cat\)", "a (cat:1)"]) == ()
    session = invert(model, random_picture(), InversionRequest(source_prompt=SOURCE, steps=2))
    with pytest.warns(ControlWarning, match=r"left out.*masactrl\[prompts\]") as caught:
        session.edit(EditRequest(target_prompts=("a cat",), start_step=1))
    assert len(caught) == 1


@needs_compel
def test_other_warnings_look_at_the_words_alone(model: LoadedModel) -> None:
    puppets = replace(model, family="puppets")
    assert prompt_warnings(puppets, ["a (cat:1.0) standing in the \\(meadow\\)"]) == ()
    (sentence,) = prompt_warnings(puppets, ["a ([tram:1.0)]"])
    assert 'does not know "tram"' in sentence
    fits = " ".join(["(cat:1.0)"] * 75)
    assert prompt_warnings(model, [fits]) == ()
    (sentence,) = prompt_warnings(model, [f"{fits} \\(red\\) beach"])
    assert "not seen is: '( red ) beach'" in sentence


def test_a_bad_weight_is_a_sentence_at_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "(a cat:1,4)", "--to", "a dog", "--plan"]) == 2
    assert "has the weight 1,4; accepted is a number" in capsys.readouterr().err
