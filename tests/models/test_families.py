"""SD3 and FLUX as models: loading, settings, pictures, edits; sentences for what is missing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_mmdit
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from masactrl.cli import main
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError, UnsupportedPipeline
from masactrl.models import LoadedModel, load_pipeline
from masactrl.models.denoiser import Denoiser
from masactrl.models.drawing import draw, start_noise
from masactrl.models.preview import preview
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.generate import GenerateRequest, generate
from masactrl.runs.invert import InversionRequest, invert

MAKE: dict[str, Any] = {
    "sd3": tiny_mmdit.sd3,
    "sd35": lambda: tiny_mmdit.sd3(dual=True, t5=False),
    "flux": tiny_mmdit.flux,
    "schnell": lambda: tiny_mmdit.flux(guidance=False),
}
SIZE = {"height": 32, "width": 48}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("families")
    for name, make in MAKE.items():
        make().save_pretrained(root / name)
    return {name: root / name for name in MAKE}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, LoadedModel]:
    return {name: load_pipeline(folder, device="cpu") for name, folder in folders.items()}


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    noise = torch.randint(0, 256, (32, 48, 3), generator=torch.Generator().manual_seed(0))
    return Image.fromarray(noise.to(torch.uint8).numpy())


def test_settings_are_those_of_the_family(models: dict[str, LoadedModel]) -> None:
    found = {
        name: (
            model.family,
            model.preset.steps,
            model.preset.guidance_scale,
            model.preset.start_step,
            model.preset.start_layer,
            model.preset.width,
        )
        for name, model in models.items()
    }
    assert found == {
        "sd3": ("sd3", 28, 7.0, 2, 2, 64),
        "sd35": ("sd3", 28, 7.0, 2, 2, 64),
        "flux": ("flux", 28, 3.5, 2, 2, 1024),
        "schnell": ("flux", 4, 1.0, 1, 2, 1024),
    }
    for model in models.values():
        assert isinstance(model.pipeline.scheduler, FlowMatchEulerDiscreteScheduler)
        assert model.kind == "flow"


@pytest.mark.parametrize("name", MAKE)
def test_settings_are_known_before_loading(
    name: str, folders: dict[str, Path], models: dict[str, LoadedModel]
) -> None:
    assert preview(folders[name]) == models[name].preset


@pytest.mark.parametrize("name", ["sd35", "flux"])
def test_a_transformer_s_file_is_completed_from_a_pipeline(
    name: str, folders: dict[str, Path], models: dict[str, LoadedModel]
) -> None:
    file = folders[name] / "transformer" / "diffusion_pytorch_model.safetensors"
    with pytest.raises(ConfigError, match="give --config"):
        load_pipeline(file)
    made = load_pipeline(file, config=folders[name], device="cpu")
    assert made.origin.kind == "file"
    assert made.origin.weights == models[name].origin.weights
    other = "flux" if name == "sd35" else "sd3"
    with pytest.raises(ConfigError, match="a pipeline of its kind"):
        load_pipeline(file, config=folders[other])


def test_a_hub_id_loads_from_the_cache(
    folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    cache = tmp_path / "models--black-forest-labs--tiny"
    shutil.copytree(folders["flux"], cache / "snapshots" / "abc123")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = load_pipeline("black-forest-labs/tiny", device="cpu")
    assert (model.family, model.origin.revision) == ("flux", "abc123")


def test_relatives_that_are_given_pictures_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "fill"
    shutil.copytree(folders["flux"], folder)
    index = json.loads((folder / "model_index.json").read_text())
    for kind in ("FluxFillPipeline", "FluxKontextPipeline"):
        (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": kind}))
        with pytest.raises(UnsupportedPipeline, match=f"{kind}; a .* or FluxPipeline is needed"):
            load_pipeline(folder)


@pytest.mark.parametrize("name", MAKE)
def test_targets_without_control_are_the_stock_pipeline_s(
    name: str, models: dict[str, LoadedModel]
) -> None:
    model = models[name]
    request = GenerateRequest(
        source_prompt="a cat sitting", target_prompts=("a cat running",), steps=3, **SIZE
    )
    result = generate(model, request)
    noise = start_noise(model.pipeline, seed=0, **SIZE)
    prompts = [request.source_prompt, *request.target_prompts, *request.target_prompts]
    plain = draw(
        model.pipeline,
        prompts,
        noise.repeat(3, 1, 1, 1),
        steps=3,
        guidance_scale=model.preset.guidance_scale,
    )
    from masactrl.pictures.images import tensor_to_images

    source, _, target = tensor_to_images(plain, signed=False)
    assert result.source == source
    assert result.targets[0].uncontrolled == target
    assert result.targets[0].controlled != target
    assert generate(model, request).targets == result.targets


@pytest.mark.parametrize("name", MAKE)
def test_the_port_walks_as_the_pipeline_does(name: str, models: dict[str, LoadedModel]) -> None:
    from masactrl.diffusion import denoise
    from masactrl.models.guided import Condition, Guided

    pipeline, scale = models[name].pipeline, models[name].preset.guidance_scale
    noise = start_noise(pipeline, seed=1, **SIZE)
    wanted = draw(pipeline, ["a cat"], noise, steps=4, guidance_scale=scale)
    port = Denoiser(pipeline)
    text = port.encode_text(["a cat", ""])
    two = scale != 1 and not port.reads_guidance
    condition = Condition(text=text.row(0), unconditional=text.row(1) if two else None, scale=scale)
    schedule = port.schedule(4, size=(4, 6))
    with torch.no_grad():
        z = denoise(Guided(port, [condition], schedule), noise, schedule, walk="euler")
    found = port.decode_image(z) / 2 + 0.5
    assert torch.allclose(found.clamp(0, 1), wanted, atol=2e-4)
    pixels = 2 * wanted - 1
    assert torch.allclose(port.encode_image(pixels), _encoded(pipeline, pixels), atol=1e-5)


def _encoded(pipeline: Any, pixels: torch.Tensor) -> torch.Tensor:
    config = pipeline.vae.config
    with torch.no_grad():
        mean = pipeline.vae.encode(pixels).latent_dist.mode()
    return (mean - config.shift_factor) * config.scaling_factor


@pytest.mark.parametrize("inversion", ["direct", "uni-inv", "rf-solver", "fireflow", "euler"])
@pytest.mark.parametrize("name", ["sd35", "flux"])
def test_a_picture_is_inverted_and_edited(
    name: str, inversion: str, models: dict[str, LoadedModel], picture: Image.Image
) -> None:
    asked = InversionRequest(method=inversion, steps=3, fit="keep", source_prompt="a cat sitting")
    session = invert(models[name], picture, asked)
    assert session.passes == asked.build().passes(3, 1)
    request = EditRequest(target_prompts=("a cat running",), start_step=1, start_layer=1)
    planned, result = session.plan(request), session.edit(request)
    (target,) = result.targets
    assert target.controlled != target.uncontrolled
    assert (result.passes["source"], result.passes["edit"]) == (planned.source, planned.edit)
    if inversion == "direct":  # put back on its way, the source ends in its own latents
        assert result.quality.psnr == result.quality.ceiling
        joint = session.edit(
            EditRequest(
                target_prompts=("a cat running",), start_step=1, start_layer=1, mode="joint"
            )
        )
        assert _apart(joint.targets[0].controlled, target.controlled) <= 2


def _apart(one: Image.Image, other: Image.Image) -> int:
    from PIL import ImageChops

    return max(high for _, high in ImageChops.difference(one, other).getextrema())


def test_a_session_of_a_flow_is_kept(
    models: dict[str, LoadedModel], picture: Image.Image, tmp_path: Path
) -> None:
    from masactrl.runs.session_file import load_session

    session = invert(
        models["flux"], picture, InversionRequest(method="fireflow", steps=3, fit="keep")
    )
    again = load_session(session.save(tmp_path / "a.safetensors"), models["flux"])
    assert again.trajectory.schedule == session.trajectory.schedule
    assert torch.equal(again.trajectory.latents, session.trajectory.latents)


@pytest.mark.parametrize(
    ("name", "wrong", "says"),
    [
        ("flux", {"negative_prompt": "a dog"}, "told its guidance as a number"),
        ("schnell", {"guidance_scale": 3.0}, "distilled to do without"),
        ("sd3", {"height": 40}, "multiples of 16, such as 48 x 32"),
        ("flux", {"method": "prompt-to-prompt"}, "needs a U-Net"),
        ("sd3", {"start_layer": 60}, "60"),
    ],
)
def test_what_a_family_has_not_is_a_sentence(
    name: str, wrong: dict[str, Any], says: str, models: dict[str, LoadedModel]
) -> None:
    asked = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), steps=2, **{**SIZE, **wrong}
    )
    with pytest.raises(MasaCtrlError, match=says):
        generate(models[name], asked)


def test_inversions_of_another_kind_are_refused(
    models: dict[str, LoadedModel], model: LoadedModel, picture: Image.Image
) -> None:
    with pytest.raises(ConfigError, match=r"accepted there are direct, .*euler"):
        invert(models["flux"], picture, InversionRequest(method="edit-friendly"))
    with pytest.raises(ConfigError, match="not one for U-Nets"):
        invert(model, picture, InversionRequest(method="rf-solver"))


def test_weights_are_left_out_with_a_warning(models: dict[str, LoadedModel]) -> None:
    asked = {"target_prompts": ("a dog",), "steps": 2, **SIZE}
    with pytest.warns(ControlWarning, match="not in SD3 and FLUX"):
        weighted = generate(models["sd3"], GenerateRequest(source_prompt="a (cat:1.4)", **asked))  # type: ignore[arg-type]
    plain = generate(models["sd3"], GenerateRequest(source_prompt="a cat", **asked))  # type: ignore[arg-type]
    assert weighted.source == plain.source


def test_the_longest_encoder_says_what_is_cut(models: dict[str, LoadedModel]) -> None:
    from masactrl.runs.prompts import prompt_warnings

    said = " ".join(["cat"] * 100)
    assert prompt_warnings(models["flux"], [said]) == ()
    assert "77 tokens" in prompt_warnings(models["sd35"], [said])[0]
    (note,) = prompt_warnings(models["schnell"], [" ".join(["cat"] * 300)])
    assert "256 tokens" in note


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_command_line_makes_and_remakes(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(folders["flux"]), tmp_path / "o"
    words = ["generate", "a cat", "--to", "a dog", "--steps", "2", "--size", "48x32"]
    assert main([*words, "--model", folder, "--device", "cpu", "-o", str(out)]) == 0
    made = str(out / "target1-controlled.png")
    capsys.readouterr()
    assert main(["rerun", made, "--model", folder, "-o", str(tmp_path / "again.png")]) == 0
    assert "same to the bit" in capsys.readouterr().out
    words = ["edit", str(out / "source.png"), "--to", "a dog", "--steps", "2", "--fit", "keep"]
    edited = tmp_path / "e"
    assert main([*words, "--model", folder, "--device", "cpu", "-o", str(edited)]) == 0
    assert (edited / "target1-controlled.png").exists()


@pytest.mark.parametrize("name", ["sd35", "flux"])
def test_s_and_l_are_swept_from_one_recording(name: str, models: dict[str, LoadedModel]) -> None:
    from masactrl.studies.axes import Axes
    from masactrl.studies.sweep import sweep_generate

    request = GenerateRequest(
        source_prompt="a cat", target_prompts=("a dog",), steps=2, start_step=0, **SIZE
    )
    axes = Axes(start_steps=(0, 1), start_layers=(1, 3))
    (target,) = sweep_generate(models[name], request, axes).targets
    assert len({one.tobytes() for one in target.cells.values()}) == 4
    alone = generate(models[name], replace(request, start_step=1, start_layer=3))
    assert _apart(target.cells[1, 3], alone.targets[0].controlled) <= 2


def test_what_is_for_u_nets_alone_says_so(models: dict[str, LoadedModel], tmp_path: Path) -> None:
    from masactrl.layouts.networks import load_network
    from masactrl.models import export_single_file

    for refused in (
        lambda: load_network(models["sd3"], "pose", "somewhere"),
        lambda: export_single_file(models["flux"], tmp_path / "a.safetensors"),
    ):
        with pytest.raises(UnsupportedPipeline, match="U-Net"):
            refused()
