"""A setting that is declared once: what it does, and that every door knows it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from editing_parts import random_picture
from typer.testing import CliRunner

from masactrl import EditRequest, GenerateRequest, InversionRequest, generate, invert
from masactrl.app.edit_fields import edit_fields
from masactrl.app.fields import Limits, set_fields
from masactrl.cli.root import app
from masactrl.errors import ConfigError
from masactrl.models.clip_skip import clip_skip
from masactrl.models.denoiser import Denoiser
from masactrl.pictures.images import read_recipe
from masactrl.rerun.kinds import RerunInputs, command_line, rerun_recipe
from masactrl.runs.recipe import Recipe
from masactrl.studies.axes import parse_axes

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

PROMPT = "a cat running"


def asked(**values: Any) -> GenerateRequest:
    return GenerateRequest(
        source_prompt="a cat standing",
        target_prompts=(PROMPT,),
        steps=2,
        start_step=0,
        height=32,
        width=32,
        **values,
    )


def test_the_text_is_the_normed_output_of_an_earlier_layer() -> None:
    pipeline = tiny_models.sd()
    encoder = pipeline.text_encoder
    ids = pipeline.tokenizer(
        PROMPT, padding="max_length", max_length=77, truncation=True, return_tensors="pt"
    ).input_ids
    with torch.no_grad():
        states = encoder(ids, output_hidden_states=True).hidden_states
        norm = getattr(encoder, "text_model", encoder).final_layer_norm
        for layers in (0, 1):
            with clip_skip(pipeline, layers):
                text = Denoiser(pipeline).encode_text([PROMPT])
            assert torch.equal(text.hidden, norm(states[-1 - layers]))
    assert torch.equal(Denoiser(pipeline).encode_text([PROMPT]).hidden, norm(states[-1]))


def test_the_encoder_is_whole_again_after_an_exception() -> None:
    pipeline = tiny_models.sd()
    with pytest.raises(KeyboardInterrupt), clip_skip(pipeline, 1):
        raise KeyboardInterrupt
    encoder = getattr(pipeline.text_encoder, "text_model", pipeline.text_encoder).encoder
    assert len(encoder.layers) == 2


def test_what_cannot_be_left_out_is_said() -> None:
    with (
        pytest.raises(ConfigError, match="2 layers; accepted is 0 to 1"),
        clip_skip(tiny_models.sd(), 2),
    ):
        pass
    with (
        pytest.raises(ConfigError, match="several text encoders"),
        clip_skip(tiny_models.sdxl(), 1),
    ):
        pass
    with pytest.raises(ConfigError, match="clip_skip=5 was given; accepted is 0 to 4"):
        asked(clip_skip=5)


def test_pictures_change_and_their_recipe_makes_them_again(
    model: LoadedModel, tmp_path: Path
) -> None:
    plain, skipped = generate(model, asked()), generate(model, asked(clip_skip=1))
    assert plain.source.tobytes() != skipped.source.tobytes()
    skipped.save(tmp_path)
    recipe = Recipe.parse(read_recipe(tmp_path / "target1-controlled.png"))
    assert "--clip-skip 1" in command_line(recipe)
    again = rerun_recipe(model, recipe, RerunInputs())
    assert again.tobytes() == skipped.targets[0].controlled.tobytes()
    old = {name: one for name, one in plain.request.recipe().items() if name != "clip_skip"}
    before = Recipe.parse({**recipe.to_json(), "request": old})
    before = before.of("source")
    assert rerun_recipe(model, before, RerunInputs()).tobytes() == plain.source.tobytes()


def test_an_edit_has_that_of_its_inversion(model: LoadedModel) -> None:
    request = EditRequest(target_prompts=(PROMPT,), compare=False)
    made = []
    for layers in (0, 1):
        session = invert(model, random_picture(), InversionRequest(steps=2, clip_skip=layers))
        result = session.edit(request)
        recipe = result.recipe("target1-controlled")
        assert recipe.request["inversion"]["clip_skip"] == layers
        made.append(result.targets[0].controlled.tobytes())
    assert made[0] != made[1]


def test_every_door_knows_it(model: LoadedModel) -> None:
    for verb in ("generate", "edit", "animate", "sweep", "compare"):
        said = CliRunner().invoke(app, [verb, "--help"], env={"COLUMNS": "200"}).output
        assert "--clip-skip" in said, verb
    assert parse_axes(["clip-skip=0-1"]).runs() == ({"clip-skip": 0}, {"clip-skip": 1})
    limits = Limits(preset=model.preset, layers=16)
    for fields in (set_fields(limits), edit_fields(limits)):
        assert "clip_skip" in [one.name for one in fields]
