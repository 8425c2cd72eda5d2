"""Methods through generate, compare and the command line, on the tiny model."""

from __future__ import annotations

import json
import os
import shlex
import signal
from typing import TYPE_CHECKING, Any

import pytest
import torch
from PIL import Image

from masactrl.attention import Schedule
from masactrl.cli import main
from masactrl.errors import ConfigError
from masactrl.methods import MasaCtrl, PlugAndPlay, SDEdit
from masactrl.pictures.images import image_to_tensor, read_recipe
from masactrl.rerun.kinds import RerunInputs, rerun_recipe
from masactrl.runs.generate import generate, start_noise
from masactrl.runs.recipe import Recipe
from masactrl.runs.request import GenerateRequest
from masactrl.studies.compare import compare_generated, read_figures

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel

ASKED: dict[str, Any] = {
    "source_prompt": "a cat sitting",
    "target_prompts": ("a dog sitting",),
    "steps": 4,
}


def request(**values: Any) -> GenerateRequest:
    return GenerateRequest(**{**ASKED, **values})


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("prompt-to-prompt", {"cross": 0.5, "self_attention": 0.5}),
        ("plug-and-play", {}),
        ("style-aligned", {}),
        ("unified", {"rigid": 0.3}),
        ("sdedit", {"strength": 0.5}),
        ("blended-latent", {"threshold": 0.3, "grow": 0.0}),
        ("imagic", {"text_steps": 2, "tuning_steps": 2}),
        ("fixed-seed", {}),
    ],
)
def test_generate_by_every_method(model: LoadedModel, method: str, options: dict[str, Any]) -> None:
    result = generate(model, request(method=method, method_options=options))
    usual = generate(model, request())
    assert result.request.method == method
    assert dict(result.request.method_options) == options
    target = result.targets[0]
    assert target.uncontrolled.tobytes() == usual.targets[0].uncontrolled.tobytes()
    assert result.source.tobytes() == usual.source.tobytes()
    changed = target.controlled.tobytes() != target.uncontrolled.tobytes()
    assert changed == (method != "fixed-seed")
    assert json.loads(json.dumps(result.recipe("source").to_json()))["request"]["method"] == method


def test_a_method_object_goes_before_the_request(model: LoadedModel) -> None:
    made = generate(model, request(), method=PlugAndPlay(features=0.5))
    named = generate(model, request(method="plug-and-play", method_options={"features": 0.5}))
    assert made.request.method == "plug-and-play"
    assert made.targets[0].controlled.tobytes() == named.targets[0].controlled.tobytes()


def test_sdedit_is_ddim_from_the_noised_source(model: LoadedModel) -> None:
    """Against the equations, written out step by step with the U-Net alone."""
    pipe, strength, scale = model.pipeline, 0.5, 3.0
    asked = request(method="sdedit", method_options={"strength": strength}, guidance_scale=scale)
    result = generate(model, asked)
    scheduler = pipe.scheduler
    assert "set_timesteps" not in vars(scheduler)
    alphas = scheduler.alphas_cumprod.double()
    times = [751, 501, 251, 1]

    def text(prompt: str) -> torch.Tensor:
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0]

    def denoise(z: torch.Tensor, prompt: str, steps: list[int]) -> torch.Tensor:
        both = torch.cat([text(""), text(prompt)])
        for t in steps:
            u, c = pipe.unet(torch.cat([z, z]), t, both).sample.chunk(2)
            eps = u + scale * (c - u)
            a, before = alphas[t], alphas[max(t - 250, 0)]
            z_0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
            z = (before.sqrt() * z_0 + (1 - before).sqrt() * eps).float()
        return z

    settings = asked.resolve(model.preset)
    with torch.no_grad():
        noise = start_noise(model, settings)
        z_0 = denoise(noise, "a cat sitting", times)
        a = alphas[times[2]]
        z = (a.sqrt() * z_0 + (1 - a).sqrt() * noise).float()
        z = denoise(z, "a dog sitting", times[2:])
        picture = pipe.vae.decode(z / pipe.vae.config.scaling_factor).sample[0] / 2 + 0.5
    seen = image_to_tensor(result.targets[0].controlled, signed=False)
    assert (seen - picture.clamp(0, 1)).abs().max() < 1.5 / 255


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"method": "magic"}, "method='magic'"),
        ({"method": "sdedit", "strength": 0.5}, "strength belongs to the method masactrl"),
        ({"method": "unified", "start_step": 2}, "start_step belongs"),
        ({"method_options": {"a": 1}}, "are those of other methods"),
    ],
)
def test_requests_that_contradict_themselves(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        request(**values)


def test_an_option_that_a_method_does_not_have(model: LoadedModel) -> None:
    with pytest.raises(ConfigError, match="no option 'power'"):
        generate(model, request(method="sdedit", method_options={"power": 1}))
    with pytest.raises(ConfigError, match="leaves none of 4 steps"):
        generate(model, request(), method=SDEdit(strength=0.1))


def test_comparison(model: LoadedModel) -> None:
    methods = ("masactrl", "sdedit", "plug-and-play")
    result = compare_generated(
        model, request(), methods=methods, options={"sdedit": {"strength": 0.5}}
    )
    assert [c.method for c in result.columns] == ["source", "fixed-seed", *methods]
    assert result.columns[2].title == "MasaCtrl"
    assert all(column.figures is None for column in result.columns)  # not of the puppet world
    sheet = result.to_sheet()
    assert sheet.width > 5 * 64
    assert result._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="once"):
        compare_generated(model, request(), methods=("sdedit", "sdedit"))
    with pytest.raises(ConfigError, match="'unified', which is not compared"):
        compare_generated(model, request(), methods=("sdedit",), options={"unified": {}})
    with pytest.raises(ConfigError, match="2 were given"):
        compare_generated(model, request(target_prompts=("a dog", "a horse")))


def test_figures_of_the_puppet_world() -> None:
    from masactrl.puppets.renderer import render
    from masactrl.puppets.scene import sample_scene

    scene = sample_scene(torch.Generator().manual_seed(1), close_up=0)
    other = sample_scene(torch.Generator().manual_seed(2), close_up=0)
    made = render([scene, scene.acting("running"), other], 128).image
    pictures = [Image.fromarray((one.permute(1, 2, 0) * 255).byte().numpy()) for one in made]
    figures = read_figures(pictures, "a cat running in the meadow")
    assert figures is not None
    assert figures[0].identity_error == 0
    assert figures[0].background == 60
    assert figures[1].action_right
    assert figures[1].identity_error < figures[2].identity_error
    assert figures[2].background < figures[1].background


def test_command_line(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["a cat", "--to", "a dog", "--model", str(model_folder), "--steps", "4"]
    words += ["--size", "32x24", "--device", "cpu", "-o", str(tmp_path / "out")]
    methods = ["--method", "sdedit", "--method", "plug-and-play"]
    options = ["--method-option", "sdedit.strength=0.5"]
    assert main(["compare", *words, *methods, *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["method"] for one in told["columns"]] == [
        "source",
        "fixed-seed",
        "sdedit",
        "plug-and-play",
    ]
    assert (tmp_path / "out" / "comparison.png").is_file()
    assert main(["compare", *words, *methods, "--overwrite"]) == 0
    assert "Plug-and-Play" in capsys.readouterr().out
    again = ["rerun", str(tmp_path / "out" / "comparison.png"), "--model", str(model_folder)]
    assert main(again) == 0
    assert capsys.readouterr().out == "The picture is the same to the bit.\n"
    assert main(["compare", *words, "--method", "magic"]) == 2
    assert "method='magic'" in capsys.readouterr().err
    assert main(["compare", *words, "--overwrite", "--method-option", "strength=1"]) == 2
    assert "names no method" in capsys.readouterr().err

    plain = ["generate", *words, "--overwrite", "--method", "sdedit"]
    assert main([*plain, "--method-option", "strength=0.5"]) == 0
    assert "sdedit strength=0.5, seed 0" in capsys.readouterr().out
    recipe = read_recipe(tmp_path / "out" / "target1-controlled.png")
    assert recipe is not None
    assert recipe["request"]["method_options"] == [["strength", 0.5]]
    assert main([*plain, "--method-option", "strength"]) == 2
    assert "write NAME=VALUE" in capsys.readouterr().err


def test_a_comparison_says_its_command(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["compare", "a cat", "--to", "a dog", "--model", str(model_folder), "--steps", "4"]
    words += ["--size", "32x24", "--device", "cpu", "--method", "masactrl", "--method", "sdedit"]
    words += ["--method-option", "sdedit.strength=0.5", "--start-step", "2", "--negative", "-x"]
    assert main([*words, "-o", str(tmp_path / "a")]) == 0
    path = tmp_path / "a" / "masactrl.png"
    capsys.readouterr()
    assert main(["rerun", str(path), "--model", str(model_folder)]) == 0
    assert "the same to the bit" in capsys.readouterr().out
    assert main(["info", str(path), "--cli"]) == 0
    line = shlex.split(capsys.readouterr().out)[1:]
    again = [str(model_folder) if word == "tiny" else word for word in line]
    assert main([*again, "-o", str(tmp_path / "b"), "--json"]) == 0
    for name in ("masactrl", "comparison", "sdedit", "source"):
        made = [(tmp_path / folder / f"{name}.png").read_bytes() for folder in "ab"]
        assert made[0] == made[1]
    assert main([*words, "-o", str(tmp_path / "c"), "--no-metadata"]) == 0
    assert read_recipe(tmp_path / "c" / "sdedit.png") is None
    assert not list((tmp_path / "c").glob("*.json"))


def test_an_interrupt_keeps_the_methods_that_are_done(
    model_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = generate

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return run(*args, **kwargs)

    words = ["compare", "a cat", "--to", "a dog", "--model", str(model_folder), "--steps", "2"]
    words += ["--size", "16x16", "--device", "cpu", "--method", "masactrl", "--method", "sdedit"]
    words += ["--method-option", "sdedit.strength=0.5", "-o", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("masactrl.runs.generate.generate", interrupted)
        assert main([*words, "--json"]) == 130
    shown = capsys.readouterr()
    assert "Finishing this picture" in shown.err
    assert "Interrupted: 1 of 2 methods are done." in shown.err
    told = json.loads(shown.out)
    assert [one["method"] for one in told["columns"]] == ["source", "fixed-seed", "masactrl"]
    assert not (tmp_path / "sdedit.png").exists()
    with Image.open(tmp_path / "masactrl.png") as made:
        assert made.info["parameters"].startswith("a dog\nSteps: 2, Sampler: DDIM")
    assert main(["rerun", str(tmp_path / "comparison.png"), "--model", str(model_folder)]) == 0
    assert capsys.readouterr().out == "The picture is the same to the bit.\n"


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        (SDEdit(strength=0.5), {"method_options": [["strength", 0.5]]}),
        (PlugAndPlay(), {"method_options": []}),
        (
            MasaCtrl(schedule=Schedule(fraction=(0.5, 1.0), start_layer=9), form="union"),
            {"start_step": 2, "start_layer": 9, "form": "union", "method": "masactrl"},
        ),
        (MasaCtrl(schedule=Schedule(steps=(2, 3), layers=(15,))), {"start_layer": 15}),
    ],
)
def test_an_object_s_options_are_in_the_recipe(
    method: Any, expected: dict[str, Any], model: LoadedModel
) -> None:
    result = generate(model, request(height=16, width=16), method=method)
    found = Recipe.parse(result.recipe("target1-controlled").to_json())
    assert expected.items() <= found.request.items()
    after = rerun_recipe(model, found, RerunInputs())
    assert after.tobytes() == result.targets[0].controlled.tobytes()


@pytest.mark.parametrize("window", [{"steps": (1, 3)}, {"fraction": (0.0, 0.5)}, {"layers": (9,)}])
def test_what_no_recipe_can_say_is_said(window: dict[str, Any], model: LoadedModel) -> None:
    method = MasaCtrl(schedule=Schedule(**window))
    result = generate(model, request(height=16, width=16), method=method)
    found = Recipe.parse(result.recipe("target1-controlled").to_json())
    with pytest.raises(ConfigError, match=r"control given as an object \(MasaCtrl\)"):
        rerun_recipe(model, found, RerunInputs())


def test_bench_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "puppets", "-o", str(tmp_path), "--split", "all"]) == 2
    assert "split='all'" in capsys.readouterr().err
    assert main(["bench", "pie", str(tmp_path)]) == 2
    assert "mapping_file.json cannot be read" in capsys.readouterr().err
