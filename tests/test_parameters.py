"""What pictures of other tools say of themselves, and commands that begin with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from masactrl.cli import main
from masactrl.errors import ConfigError
from masactrl.pictures.parameters import (
    Parameters,
    parse_graph,
    parse_text,
    read_parameters,
)

ROOT = Path(__file__).parents[1]
MODEL = "puppets.safetensors"
TEXT = """a cat sitting, (fluffy:1.2), <lora:paint:0.7>
second line
Negative prompt: blurry,
low quality
Steps: 20, Sampler: DPM++ 2M Karras, CFG scale: 6.5, Seed: 4008, Size: 64x128, \
Model hash: 6ce0161689, Model: v1-5, Clip skip: 2, Lora hashes: "paint: 1, b: 2", Version: f2.0"""
WANTED = Parameters(
    prompt="a cat sitting, (fluffy:1.2), \nsecond line",
    negative_prompt="blurry,\nlow quality",
    steps=20,
    guidance_scale=6.5,
    seed=4008,
    size=(64, 128),
    clip_skip=1,
    sampler="DPM++ 2M Karras",
    model="v1-5",
    model_hash="6ce0161689",
    extra_networks=("<lora:paint:0.7>",),
)


def picture(path: Path, **text: str) -> Path:
    told = PngInfo()
    for name, words in text.items():
        told.add_itxt(name, words)
    Image.new("RGB", (8, 8)).save(path, pnginfo=told)
    return path


def test_the_text_of_web_uis(tmp_path: Path) -> None:
    assert parse_text(TEXT) == WANTED
    assert read_parameters(picture(tmp_path / "a.png", parameters=TEXT)) == WANTED
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + TEXT.encode("utf-16-be")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg", exif=exif)
    assert read_parameters(tmp_path / "a.jpg") == WANTED


def test_the_text_of_ours_is_read_back() -> None:
    found = parse_text("a cat\nSteps: 25, Sampler: DDIM, CFG scale: 4.0, Seed: 1, Size: 256x256")
    assert (found.prompt, found.steps, found.size) == ("a cat", 25, (256, 256))
    # A prompt with colons and commas is no line of settings.
    assert parse_text("a cat: red, a dog: blue, a hat: Steps").prompt.startswith("a cat: red")


@pytest.mark.parametrize("name", ["consistent_set", "photo", "with_controlnet", "animation"])
def test_graphs_that_comfyui_wrote(name: str) -> None:
    found = read_parameters(ROOT / "integrations" / "comfyui" / "workflows" / f"{name}.png")
    assert found.prompt.startswith("a cat ")
    assert (found.sampler, found.guidance_scale, found.model) == (
        "ddim",
        4.0,
        "puppets.safetensors",
    )
    assert found.size == (None if name == "photo" else (256, 256))
    assert (found.steps, found.seed) != (None, None)


def usual() -> dict[str, Any]:
    """The graph of ComfyUI's first workflow, with a ControlNet and texts from other nodes."""
    return {
        "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "v1-5.ckpt"}},
        "2": {"class_type": "PrimitiveString", "inputs": {"value": "a red cat"}},
        "3": {"class_type": "CLIPTextEncode", "inputs": {"text": ["2", 0], "clip": ["9", 0]}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["9", 0]}},
        "5": {
            "class_type": "ControlNetApplyAdvanced",
            "inputs": {"positive": ["3", 0], "negative": ["4", 0], "image": ["8", 0]},
        },
        "6": {
            "class_type": "EmptyLatentImage",
            "inputs": {"width": 512, "height": 768, "batch_size": 1},
        },
        "7": {
            "class_type": "KSampler",
            "inputs": {
                "model": ["1", 0],
                "positive": ["5", 0],
                "negative": ["5", 1],
                "latent_image": ["6", 0],
                "seed": ["10", 0],
                "steps": 30,
                "cfg": 8,
                "sampler_name": "euler",
            },
        },
        "9": {
            "class_type": "CLIPSetLastLayer",
            "inputs": {"stop_at_clip_layer": -2, "clip": ["1", 1]},
        },
        "10": {"class_type": "PrimitiveInt", "inputs": {"value": 77}},
    }


def test_a_graph_is_followed_through_what_lies_between() -> None:
    assert parse_graph(json.dumps(usual())) == Parameters(
        prompt="a red cat",
        negative_prompt="blurry",
        steps=30,
        guidance_scale=8.0,
        seed=77,
        size=(512, 768),
        clip_skip=1,
        sampler="euler",
        model="v1-5.ckpt",
    )


def circle() -> dict[str, Any]:
    graph = usual()
    graph["5"]["inputs"]["positive"] = ["5", 0]
    graph["6"]["inputs"] = {"samples": ["6", 0]}
    return graph


@pytest.mark.parametrize(
    ("chunk", "text", "said"),
    [
        ("parameters", "   \n", "holds no prompt"),
        ("prompt", "{", "damaged"),
        ("prompt", "[" * 100_000, "damaged"),
        ("prompt", "[1, 2]", "without a sampler"),
        ("prompt", '{"1": {"class_type": "KSampler", "inputs": 3}}', "without a sampler"),
        ("prompt", json.dumps(circle()), "prompt is not written in it"),
        ("other", "words", "does not say how it was made"),
    ],
)
def test_odd_files_are_sentences(chunk: str, text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        read_parameters(picture(tmp_path / "odd.png", **{chunk: text}))


def test_no_picture_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "words.png").write_text("nothing")
    with pytest.raises(ConfigError, match="cannot be read as a picture"):
        read_parameters(tmp_path / "words.png")
    with pytest.raises(ConfigError, match="There is no file"):
        read_parameters(tmp_path / "none.png")


def test_commands_begin_with_it_and_what_is_given_wins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    like = str(picture(tmp_path / "a.png", parameters=TEXT.replace("20", "2", 1)))
    job = tmp_path / "job.toml"
    job.write_text('negative = "dark"\n')  # a file of one's own goes before what a picture says
    out = ["-o", str(tmp_path / "out"), "--json", "--to", "a cat running"]
    assert (
        main(["generate", "--config", str(job), "--like", like, "--seed", "5", "--cfg", "3", *out])
        == 0
    )
    told = capsys.readouterr()
    request = json.loads(told.out)["request"]
    asked = {name: request[name] for name in ("steps", "seed", "guidance_scale", "width", "height")}
    assert asked == {"steps": 2, "seed": 5, "guidance_scale": 3.0, "width": 64, "height": 128}
    assert request["source_prompt"] == WANTED.prompt
    assert request["negative_prompt"] == "dark"
    assert request["clip_skip"] == 1
    for words in ("v1-5 (6ce0161689)", "DPM++ 2M Karras is not used", "<lora:paint:0.7>"):
        assert words in told.err
    assert main(["generate", "--like", str(job), "--to", "x"]) == 2
    assert "cannot be read as a picture" in capsys.readouterr().err
