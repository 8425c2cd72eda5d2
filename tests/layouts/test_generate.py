"""Layouts in a run: the target's pose is given, the animal stays; words, recipe and rerun."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from diffusers import ControlNetModel
from PIL import Image

from masactrl import GenerateRequest, generate
from masactrl.cli import main
from masactrl.errors import ConfigError, ModelNotFound, UnsupportedPipeline
from masactrl.layouts.networks import load_network
from masactrl.layouts.pictures import layout_tensor
from masactrl.methods import SDEdit
from masactrl.models import LoadedModel, default_preset
from masactrl.pictures.images import image_to_tensor, tensor_to_images
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.posed import draw_skeletons, sample_posed_scenes
from masactrl.puppets.renderer import render
from masactrl.rerun.kinds import RerunInputs, rerun_recipe
from masactrl.runs.layout import Layout, LayoutWords

ASKED = ("a cat standing", "a cat running")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, str]:
    """A tiny model and the folder of a ControlNet of its family."""
    stock = tiny_models.sd_controlnet()
    folder = tmp_path_factory.mktemp("controlnet")
    stock.controlnet.save_pretrained(folder)
    model = LoadedModel(
        pipeline=tiny_models.sd(),
        name="tiny",
        family="sd",
        preset=default_preset("sd", height=64, width=64),
    )
    return model, str(folder)


def a_picture(seed: int = 0, size: tuple[int, int] = (64, 64)) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def run(model: LoadedModel, *layouts: Layout, targets: tuple[str, ...] = ASKED[1:]) -> Any:
    return generate(
        model,
        GenerateRequest(
            source_prompt=ASKED[0],
            target_prompts=targets,
            steps=3,
            start_step=1,
            start_layer=10,
            layouts=layouts,
        ),
    )


def test_targets_are_led_and_the_source_is_not(tiny: tuple[LoadedModel, str]) -> None:
    model, network = tiny
    plain = run(model)
    led = run(model, Layout(kind="noise", pictures=(a_picture(),), model=network))
    assert led.source.tobytes() == plain.source.tobytes()
    for name in ("uncontrolled", "controlled"):
        one, other = getattr(led.targets[0], name), getattr(plain.targets[0], name)
        assert one.tobytes() != other.tobytes()
    again = run(model)
    assert again.targets[0].controlled.tobytes() == plain.targets[0].controlled.tobytes()
    nothing = Layout(kind="noise", pictures=(a_picture(),), model=network, scale=0.0)
    unmoved = run(model, nothing)
    assert unmoved.targets[0].controlled.tobytes() == plain.targets[0].controlled.tobytes()


def test_each_target_has_its_own_or_all_share_one(tiny: tuple[LoadedModel, str]) -> None:
    model, network = tiny
    targets = ("a cat running", "a cat running")
    shared = run(model, Layout(kind="x", pictures=(a_picture(1),), model=network), targets=targets)
    own = run(
        model,
        Layout(kind="x", pictures=(a_picture(1), a_picture(2)), model=network),
        targets=targets,
    )
    first, second = shared.targets
    assert first.uncontrolled.tobytes() == second.uncontrolled.tobytes()
    first, second = own.targets
    assert first.uncontrolled.tobytes() != second.uncontrolled.tobytes()


def test_a_source_may_have_a_layout_of_its_own(tiny: tuple[LoadedModel, str]) -> None:
    model, network = tiny
    plain = run(model)
    led = run(
        model,
        Layout(kind="x", pictures=(a_picture(1),), source=a_picture(2), model=network),
    )
    assert led.source.tobytes() != plain.source.tobytes()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"pictures": ()}, "has no picture"),
        ({"kind": " "}, "has a kind"),
        ({"scale": -1.0}, "accepted is 0 and more"),
        ({"begin": 0.5, "end": 0.5}, "begin lies before the end"),
        ({"end": 1.5}, "both in 0 to 1"),
    ],
)
def test_layouts_that_cannot_be_are_refused(values: dict[str, Any], says: str) -> None:
    given = {"kind": "pose", "pictures": (a_picture(),)} | values
    with pytest.raises(ConfigError, match=says):
        Layout(**given)


def test_pictures_must_fit_targets_and_size(tiny: tuple[LoadedModel, str]) -> None:
    model, network = tiny
    three = Layout(kind="pose", pictures=(a_picture(),) * 3)
    with pytest.raises(ConfigError, match="3 pictures for 1 targets"):
        GenerateRequest(source_prompt="a", target_prompts=("b",), layouts=(three,))
    wide = Layout(kind="pose", pictures=(a_picture(size=(96, 64)),), model=network)
    with pytest.raises(ConfigError, match="96x64 and the run 64x64"):
        run(model, wide)
    larger = run(model, Layout(kind="x", pictures=(a_picture(size=(128, 128)),), model=network))
    assert larger.source.size == (64, 64)


def test_networks_of_another_family_are_refused(
    tiny: tuple[LoadedModel, str], tmp_path: Path
) -> None:
    model, network = tiny
    with pytest.raises(ModelNotFound, match="no network of its own for pose"):
        load_network(model, "pose")
    with pytest.raises(ModelNotFound, match="can be read from"):
        load_network(model, "pose", str(tmp_path))
    tiny_models.sdxl_controlnet().controlnet.save_pretrained(tmp_path / "xl")
    with pytest.raises(UnsupportedPipeline, match="another family"):
        load_network(model, "pose", str(tmp_path / "xl"))
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(ModelNotFound, match="it is a AutoencoderKL"):
        load_network(model, "pose", str(tmp_path / "vae"))
    assert isinstance(load_network(model, "pose", network), ControlNetModel)


def test_a_grey_network_reads_one_channel() -> None:
    grey = tiny_models.sd_adapter().adapter
    grey.register_to_config(in_channels=1)
    assert layout_tensor(a_picture(), grey, (64, 64), "edges").shape == (1, 64, 64)


def test_words_are_read_and_what_they_cannot_mean_is_said(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        a_picture().save(tmp_path / name)
    words = LayoutWords(
        layout=(f"pose={tmp_path}/a.png", f"edges={tmp_path}/b.png", f"pose={tmp_path}/c.png"),
        layout_model=("edges=some/model",),
        layout_scale=0.5,
        layout_until=0.6,
    )
    pose, edges = words.layouts()
    assert (pose.kind, len(pose.pictures), pose.model) == ("pose", 2, None)
    assert (edges.kind, len(edges.pictures), edges.model) == ("edges", 1, "some/model")
    assert (pose.scale, pose.end, edges.scale) == (0.5, 0.6, 0.5)
    assert [one.name for one in pose.stated] == ["a.png", "c.png"]
    with pytest.raises(ConfigError, match="write KIND=VALUE"):
        LayoutWords(layout=("a.png",)).layouts()
    with pytest.raises(ConfigError, match="no --layout depth=FILE"):
        LayoutWords(layout_model=("depth=x",)).layouts()
    with pytest.raises(ConfigError, match="above 0 to 1"):
        LayoutWords(layout_until=0.0)
    with pytest.raises(ConfigError, match=r"missing\.png"):
        LayoutWords(layout=("pose=missing.png",)).layouts()


def test_methods_that_run_apart_say_that_they_take_no_layout(
    tiny: tuple[LoadedModel, str],
) -> None:
    model, network = tiny
    layout = Layout(kind="x", pictures=(a_picture(),), model=network)
    asked = {"source_prompt": ASKED[0], "target_prompts": ASKED[1:], "layouts": (layout,)}
    with pytest.raises(ConfigError, match="takes no layout yet"):
        GenerateRequest(method="sdedit", **asked)  # type: ignore[arg-type]
    request = GenerateRequest(steps=3, **asked)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes no layout yet"):
        generate(model, request, method=SDEdit())


def test_the_embedded_model_puts_a_pose_and_makes_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scenes = [s for s in sample_posed_scenes(20, seed=1_000_050) if s.camera.shot == "full body"]
    right = render(scenes[:1], 256)
    (skeleton,) = tensor_to_images(draw_skeletons(right.keypoints, 256), signed=False)
    skeleton.save(tmp_path / "pose.png")
    species, facing = scenes[0].identity.species, scenes[0].pose.facing
    words = [
        *("generate", f"a {species} standing in the meadow, facing {facing}"),
        *("--to", f"a {species} in the meadow, facing {facing}"),
        *("--layout", f"pose={tmp_path}/pose.png", "--steps", "6", "-o", str(tmp_path / "out")),
    ]
    assert main(words) == 0
    made = Image.open(tmp_path / "out" / "target1-controlled.png")
    read = Inspector.load().read(image_to_tensor(made, signed=False)[None])
    seen, there = read.mask > 0.5, right.mask > 0.5
    # Six rough steps; without the layout the prompt alone leaves 0.3 to 0.6.
    assert float((seen & there).sum() / (seen | there).sum()) > 0.6
    recipe = json.loads(made.info["masactrl"])
    assert recipe["inputs"][0]["name"] == "pose.png"
    assert recipe["request"]["layouts"][0]["kind"] == "pose"
    capsys.readouterr()
    picture = str(tmp_path / "out" / "target1-controlled.png")
    assert main(["rerun", picture, "--input", str(tmp_path / "pose.png")]) == 0
    assert "same to the bit" in capsys.readouterr().out
    assert main(["info", picture, "--cli"]) == 0
    assert "--layout pose=pose.png" in capsys.readouterr().out
    assert torch.is_tensor(read.keypoints)


def test_a_recipe_without_its_layouts_is_not_run_without_them(
    tiny: tuple[LoadedModel, str],
) -> None:
    model, network = tiny
    result = run(model, Layout(kind="x", pictures=(a_picture(),), model=network))
    recipe = result.recipe("target1-controlled")
    assert recipe.inputs == ()  # the picture was open already
    with pytest.raises(ConfigError, match="made with 1 pictures of layouts, and 0 are given"):
        rerun_recipe(model, recipe, RerunInputs())
