"""Every method on a real picture: what it does, what it costs, what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_models
import torch
from editing_parts import MASKS, STEPS, outcome, random_picture, relative

from masactrl.attention import Rows
from masactrl.cli import main
from masactrl.errors import ConfigError, MaskError, PromptError, ScheduleError
from masactrl.methods import method_named
from masactrl.models.denoiser import Denoiser
from masactrl.pictures.images import read_recipe
from masactrl.runs.invert import EditMasks, EditRequest, InversionRequest, plan

if TYPE_CHECKING:
    from editing_parts import Inverted

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession

BLEND = {"source": ["cat"], "target": ["dog"], "tokens": None, "begin": 0.4}
RIVALS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("prompt-to-prompt", {"cross": 0.5, "self_attention": 0.5}),
    ("prompt-to-prompt", {"cross": 0.5, "self_attention": 0.0, "blend": BLEND}),
    ("prompt-to-prompt", {"cross": (0.2, 0.9), "self_attention": (0.25, 0.75)}),
    ("plug-and-play", {"features": 0.7}),
    ("style-aligned", {}),
    ("unified", {"rigid": 0.4}),
)


def asked(method: str, options: dict[str, Any] | None = None, **more: Any) -> EditRequest:
    return EditRequest(
        target_prompts=("a dog running",), method=method, method_options=options or {}, **more
    )


@pytest.fixture(scope="module")
def twin(inverted: Inverted) -> torch.Tensor:
    """The target without control, as masactrl's edit makes it."""
    request = EditRequest(target_prompts=("a dog running",), mode="joint")
    made = outcome(inverted(source_prompt="a cat"), request).uncontrolled
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("method", "options"),
    [
        *RIVALS,
        ("sdedit", {"strength": 0.7}),
        ("blended-latent", {"threshold": 0.3, "grow": 0.0}),
        ("imagic", {"text_steps": 2, "tuning_steps": 2}),
        ("fixed-seed", {}),
    ],
)
def test_every_method_edits_a_picture(
    inverted: Inverted, twin: torch.Tensor, method: str, options: dict[str, Any]
) -> None:
    session = inverted(source_prompt="a cat")
    seen: list[int] = []
    request = asked(method, options)
    made = outcome(session, request, on_step=lambda step, _: seen.append(step))
    cost = session.plan(request)
    assert (made.passes, len(seen)) == (cost.edit, cost.calls)
    assert relative(made.source, session.trajectory.latents[-1]) < 1e-4
    assert made.uncontrolled is not None
    apart = relative(made.controlled, made.uncontrolled)
    assert apart < 1e-5 if method == "fixed-seed" else apart > 1e-3
    assert relative(made.uncontrolled, twin) < 1e-4
    unet = session.model.pipeline.unet
    assert not any(hasattr(module, "_diffusers_hook") for module in unet.modules())
    assert "step" not in vars(session.model.pipeline.scheduler)


@pytest.mark.parametrize(("method", "options"), RIVALS)
def test_a_free_source_is_edited_as_the_pipeline_edits_it(
    inverted: Inverted, method: str, options: dict[str, Any]
) -> None:
    """From the inversion's noise both take the same steps: the oracles of synthesis count here."""
    session = inverted(source_prompt="a cat", method="ddim", guidance_scale=7.5)
    made = outcome(session, asked(method, options, compare=False))
    prompts, pipeline = ["a cat", "a dog running"], session.model.pipeline
    rows = Rows.one_source(targets=1)
    with method_named(method, **options).attach(pipeline, rows, prompts=prompts):
        start = session.trajectory.start.repeat(2, 1, 1, 1)
        plain = tiny_models.run(pipeline, prompts, size=(6, 8), steps=STEPS, latents=start)
    assert relative(made.source, plain[:1]) < 1e-4
    assert relative(made.controlled, plain[1:]) < 1e-4


def test_blended_latent_diffusion_takes_the_masks_of_the_request(inverted: Inverted) -> None:
    session = inverted(source_prompt="a cat")
    width, height = session.picture.size
    mask = np.zeros((height, width), np.uint8)
    mask[:, : width // 2] = 255
    request = asked("blended-latent", masks=EditMasks(source=mask), compare=False)
    made = outcome(session, request).controlled
    z_0 = session.trajectory.latents[-1]
    half = z_0.shape[-1] // 2
    assert torch.equal(made[..., half:], z_0[..., half:].to(made))
    assert relative(made[..., :half], z_0[..., :half]) > 1e-2
    with pytest.raises(MaskError, match="pictures, and words were given"):
        asked("blended-latent", masks=EditMasks(source=("cat",), targets=("dog",)))
    with pytest.raises(ConfigError, match="masks belongs to the method masactrl"):
        asked("imagic", masks=EditMasks(source=mask))


@torch.no_grad()
def test_sdedit_starts_from_the_noised_picture(inverted: Inverted) -> None:
    """Against the equations, with the U-Net alone; the last two of three steps are run."""
    session = inverted(source_prompt="a cat")
    request = asked("sdedit", {"strength": 0.7}, seed=5, compare=False)
    made = outcome(session, request)
    z_0, schedule = session.trajectory.latents[-1], session.trajectory.schedule
    pipeline, a = session.model.pipeline, schedule.alpha_bar
    eps = torch.randn(z_0.shape, generator=torch.Generator().manual_seed(5))
    z = a[1] ** 0.5 * z_0 + (1 - a[1]) ** 0.5 * eps
    text = Denoiser(pipeline).encode_text(["", "a dog running"]).hidden
    for step in (1, 2):
        u, c = pipeline.unet(z.repeat(2, 1, 1, 1), schedule.timesteps[step], text).sample.chunk(2)
        guided = u + 7.5 * (c - u)
        clean = (z - (1 - a[step]) ** 0.5 * guided) / a[step] ** 0.5
        z = a[step + 1] ** 0.5 * clean + (1 - a[step + 1]) ** 0.5 * guided
    assert relative(made.controlled, z) < 1e-4
    # Nothing of the inversion comes in, only its noise levels.
    other = inverted(source_prompt="a cat", method="ddim", guidance_scale=7.5)
    assert torch.equal(outcome(other, request).controlled, made.controlled)
    again = outcome(session, asked("sdedit", {"strength": 0.7}, compare=False))
    assert relative(again.controlled, made.controlled) > 1e-2


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sdedit", {"strength": 0.7}),
        ("blended-latent", {"threshold": 0.3, "grow": 0.0}),
        ("imagic", {"text_steps": 2, "tuning_steps": 2}),
    ],
)
def test_targets_that_read_no_inversion_have_steps_of_their_own(
    inverted: Inverted, method: str, options: dict[str, Any]
) -> None:
    """Bit by bit the targets of an inversion in so many steps."""
    short = inverted(source_prompt="a cat")
    told: list[tuple[int, int]] = []
    request = asked(method, options, target_steps=5)
    made = short.edit(request, on_step=lambda one: told.append((one.step, one.steps)))
    longer = inverted(source_prompt="a cat", steps=5).edit(asked(method, options))
    assert torch.equal(made.latents["target1-controlled"], longer.latents["target1-controlled"])
    assert made.targets[0].controlled.tobytes() == longer.targets[0].controlled.tobytes()
    assert made.targets[0].uncontrolled is not None
    alone = short.edit(asked(method, options)).targets[0].uncontrolled
    assert alone is not None
    assert made.targets[0].uncontrolled.tobytes() == alone.tobytes()
    assert made.passes["edit"] == short.plan(request).edit
    assert len(told) == short.plan(request).calls
    assert told[-1] == (4, 5)


@pytest.mark.parametrize(
    ("inversion", "method"),
    [
        ({"method": "null-text", "source_prompt": "a cat", "iterations": 1}, "prompt-to-prompt"),
        ({"method": "virtual", "source_prompt": "a cat"}, "unified"),
        ({"method": "edit-friendly", "source_prompt": "a cat"}, "plug-and-play"),
        ({"method": "negative-prompt", "source_prompt": "a cat"}, "sdedit"),
        ({"method": "ddim"}, "sdedit"),
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [7.5, 1.0])
def test_methods_go_with_other_inversions(
    inverted: Inverted, inversion: dict[str, Any], method: str, scale: float
) -> None:
    session = inverted(**inversion)
    request = asked(method, guidance_scale=scale, compare=scale == 1.0)
    if method == "unified":
        request = asked(method, {"rigid": 0.4}, guidance_scale=scale, compare=scale == 1.0)
    made = outcome(session, request)
    assert made.passes == session.plan(request).edit
    assert bool(made.controlled.isfinite().all())


def test_a_result_says_its_method(session: EditSession, inverted: Inverted) -> None:
    worded = inverted(source_prompt="a cat")
    result = worded.edit(asked("masactrl"), method="prompt-to-prompt")
    assert (result.request.method, result.features, result.request.mode) == (
        "prompt-to-prompt",
        "joint",
        "joint",
    )
    assert result.report()["features"] == "joint"
    assert result.passes["source"] == result.cache_bytes == 0
    recipe = result.recipe("target1-controlled").to_json()
    assert recipe["request"]["method"] == "prompt-to-prompt"
    lines = worded.plan(asked("unified")).lines()
    assert "unified runs the source with every edit" in lines
    assert session.plan(asked("sdedit")).features == "none"
    assert session.plan(asked("masactrl")).features == "cached"


def test_embeddings_of_null_text_are_for_its_own_steps(inverted: Inverted) -> None:
    session = inverted(method="null-text", source_prompt="a cat", iterations=1)
    with pytest.raises(ConfigError, match="an embedding for each of its own steps"):
        session.edit(asked("sdedit", target_steps=5))


@pytest.mark.parametrize("method", ["prompt-to-prompt", "unified"])
def test_words_need_a_source_prompt(session: EditSession, method: str) -> None:
    with pytest.raises(PromptError, match=r"say what it shows \(--from"):
        session.edit(asked(method))
    with pytest.raises(PromptError, match="inverted without a prompt"):
        plan(session.model, random_picture(), InversionRequest(), asked(method))
    assert session.plan(asked(method, {"cross": 0.0})).edit == 2 * STEPS * 3


@pytest.mark.parametrize(
    ("method", "values", "error", "sentence"),
    [
        ("magic", {}, ConfigError, "method='magic' was given; accepted are masactrl"),
        ("sdedit", {"masks": MASKS}, ConfigError, "masks belongs to the method masactrl"),
        ("sdedit", {"form": "union"}, ConfigError, "form belongs to the method masactrl"),
        ("unified", {"strength": 0.5}, ConfigError, "strength belongs"),
        ("unified", {"start_step": 1}, ConfigError, "start_step belongs"),
        ("unified", {"start_layer": 1}, ConfigError, "start_layer belongs"),
        ("fixed-seed", {"keep": "disk"}, ConfigError, "keep belongs"),
        ("fixed-seed", {"half": False}, ConfigError, "half belongs"),
        ("masactrl", {"method_options": {"a": 1}}, ConfigError, "are those of other methods"),
        ("masactrl", {"seed": 1}, ConfigError, "the method masactrl draws no noise"),
        ("sdedit", {"seed": -1}, ConfigError, "accepted is 0 to"),
        ("sdedit", {"method_options": {"power": 1}}, ConfigError, "has no option 'power'"),
        ("sdedit", {"method_options": {"strength": 2}}, ConfigError, "SDEdit accepts"),
        ("sdedit", {"method_options": {"strength": 0.1}}, ScheduleError, "leaves none of 3 steps"),
        ("unified", {"target_steps": 5}, ConfigError, "share noise and steps of their source"),
        ("sdedit", {"target_steps": 0}, ConfigError, "accepted is 1 to 1000"),
    ],
)
def test_what_a_method_cannot_be_asked(
    session: EditSession,
    method: str,
    values: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        session.edit(EditRequest(**{"target_prompts": ("a dog",), "method": method, **values}))


def test_the_command_line_and_the_recipe(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random_picture().save(tmp_path / "photo.png")
    words = ["edit", str(tmp_path / "photo.png"), "--to", "a dog", "--device", "cpu"]
    words += ["--model", str(model_folder), "--steps", "2", "-o", str(tmp_path / "out")]
    sdedit = ["--method", "sdedit", "--method-option", "strength=0.5", "--seed", "3"]
    assert main([*words, *sdedit]) == 0
    assert "guidance 7.5, sdedit strength=0.5," in capsys.readouterr().out
    path = tmp_path / "out" / "target1-controlled.png"
    recipe = read_recipe(path)
    assert recipe is not None
    assert (recipe["request"]["seed"], recipe["request"]["method"]) == (3, "sdedit")
    again = ["--model", str(model_folder), "--input", str(tmp_path / "photo.png")]
    assert main(["rerun", str(path), *again]) == 0
    assert capsys.readouterr().out == "The picture is the same to the bit.\n"
    assert main(["info", str(path), "--cli"]) == 0
    line = capsys.readouterr().out
    assert "--method sdedit --method-option strength=0.5" in line
    assert "--seed 3" in line
    assert "--start-step" not in line
    words += ["--overwrite", "--plan"]
    assert main([*words, "--method", "plug-and-play", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["method"], told["features"], told["source"]) == ("plug-and-play", "joint", 0)
    assert main([*words, "--method", "unified"]) == 2
    assert "say what it shows (--from" in capsys.readouterr().err
    assert main([*words, "--method", "sdedit", "--auto"]) == 2
    assert "not to sdedit" in capsys.readouterr().err


def test_sdxl_by_a_rival(model: LoadedModel) -> None:
    from editing_parts import loaded

    from masactrl.runs.invert import invert

    big = loaded(tiny_models.sdxl(), layer=44)
    session = invert(big, random_picture(), InversionRequest(source_prompt="a cat", steps=2))
    made = outcome(session, asked("plug-and-play", compare=True))
    assert made.uncontrolled is not None
    assert relative(made.controlled, made.uncontrolled) > 1e-3
