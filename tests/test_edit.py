"""Sessions: invert once, edit many; joint and cached, every option, files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image
from safetensors.torch import load_file

import masactrl
from masactrl.edit import EditMasks, EditRequest, InversionRequest, invert, load_session, plan
from masactrl.editing import EditSession, edit_names
from masactrl.editing.files import write_bundle
from masactrl.editing.masks import plan_masks
from masactrl.editing.run import EditRun, Outcome
from masactrl.editing.source import FileCache, RecordingKey, record_source
from masactrl.errors import ConfigError, ControlNotApplied, MaskError, OutputError, ScheduleError
from masactrl.images import read_recipe
from masactrl.inversion import INVERSIONS
from masactrl.models import LoadedModel, ModelPreset
from masactrl.models.denoiser import Denoiser

WIDTH, HEIGHT, STEPS = 61, 48, 3
TARGETS = ("a dog running", "a red horse")
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


def loaded(pipeline: Any, layer: int = 10) -> LoadedModel:
    preset = ModelPreset(
        steps=STEPS, guidance_scale=7.5, start_step=1, start_layer=layer, height=48, width=64
    )
    return LoadedModel(pipeline=pipeline, name="tiny", family="sd", preset=preset)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return loaded(tiny_models.sd())


def random_picture(seed: int = 0) -> Image.Image:
    generator = np.random.default_rng(seed)
    return Image.fromarray(generator.integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8))


def half_mask(side: str) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH))
    mask[:, : WIDTH // 3] = 1
    return mask if side == "left" else mask[:, ::-1].copy()


MASKS = EditMasks(source=half_mask("left"), targets=half_mask("right"))
WORDS = EditMasks(source="cat", targets=("dog", "horse"), threshold=0.4)


@pytest.fixture(scope="module")
def session(model: LoadedModel) -> EditSession:
    return invert(model, random_picture())


def outcome(session: EditSession, request: EditRequest) -> Outcome:
    """The final latents, before the VAE and 256 levels hide small differences."""
    settings = request.resolve(session.model.preset, session.trajectory.steps)
    pipeline, denoiser = session.model.pipeline, Denoiser(session.model.pipeline)
    masks = settings.masks and plan_masks(
        settings.masks, session.framing, session.trajectory.prompt, settings.target_prompts
    )
    recording = None
    if settings.mode == "cached":
        key = RecordingKey.of(settings, masks, session.trajectory)
        words = masks.recording() if masks else None
        recording = record_source(denoiser, pipeline, session.trajectory, key, words=words)
    return EditRun(
        denoiser=denoiser,
        pipeline=pipeline,
        trajectory=session.trajectory,
        framing=session.framing,
        request=settings,
        masks=masks,
        recording=recording,
    )()


def relative(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one.cpu() - other.cpu()).abs().max() / other.abs().max())


@pytest.mark.parametrize(
    ("inversion", "change"),
    [
        ({}, {}),
        ({}, {"guidance_scale": 1.0}),
        ({}, {"form": "union", "strength": 0.6, "negative_prompt": "a bird"}),
        ({}, {"masks": MASKS, "keep_background": True}),
        ({"prompt": "a cat"}, {"masks": WORDS, "keep_background": True}),
        ({"prompt": "a cat", "method": "ddim", "guidance_scale": 2.0}, {}),
        ({"prompt": "a cat", "method": "ddim", "guidance_scale": 2.0}, {"guidance_scale": 1.0}),
        ({"method": "ddim"}, {"masks": MASKS, "keep_background": True}),
        ({"method": "edit-friendly"}, {}),
        ({"method": "virtual", "prompt": "a cat"}, {}),
        ({"method": "null-text", "prompt": "a cat", "iterations": 1}, {}),
        ({"method": "negative-prompt", "prompt": "a cat"}, {}),
    ],
    ids=lambda value: ",".join(value) or "default",
)
def test_joint_is_cached(
    model: LoadedModel, inversion: dict[str, Any], change: dict[str, Any]
) -> None:
    session = invert(model, random_picture(), InversionRequest(**inversion))
    found = [
        outcome(session, EditRequest(target_prompts=TARGETS, mode=mode, half=False, **change))
        for mode in ("joint", "cached")
    ]
    joint, cached = found
    assert joint.uncontrolled is not None
    assert cached.uncontrolled is not None
    assert relative(cached.controlled, joint.controlled) < 1e-4
    assert relative(cached.uncontrolled, joint.uncontrolled) < 1e-4
    assert relative(cached.source, joint.source) < 1e-4
    assert relative(joint.controlled, joint.uncontrolled) > 1e-3
    request = EditRequest(target_prompts=TARGETS, **change)
    for run, mode in zip(found, ("joint", "cached"), strict=True):
        assert run.passes == session.plan(replace(request, mode=mode)).edit


def test_sdxl(monkeypatch: pytest.MonkeyPatch) -> None:
    session = invert(loaded(tiny_models.sdxl(), layer=44), random_picture())
    joint, cached = (
        outcome(session, EditRequest(target_prompts=TARGETS[:1], mode=mode, half=False))
        for mode in ("joint", "cached")
    )
    assert relative(cached.controlled, joint.controlled) < 1e-4
    assert relative(joint.controlled, joint.uncontrolled) > 1e-3


def test_the_uncontrolled_picture_is_the_pipeline_s(session: EditSession) -> None:
    made = outcome(session, EditRequest(target_prompts=TARGETS[:1]))
    plain = tiny_models.run(
        session.model.pipeline,
        list(TARGETS[:1]),
        size=(HEIGHT // 8, 64 // 8),
        steps=STEPS,
        latents=session.trajectory.start.clone(),
    )
    assert made.uncontrolled is not None
    assert relative(made.uncontrolled, plain) < 1e-4


@pytest.mark.parametrize("method", ["direct", "edit-friendly", "virtual"])
@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_the_source_comes_back_as_the_vae_gives_it(
    model: LoadedModel, method: str, mode: str
) -> None:
    session = invert(model, random_picture(), InversionRequest(method=method))
    made = outcome(session, EditRequest(target_prompts=TARGETS[:1], mode=mode, compare=False))
    assert relative(made.source, session.trajectory.latents[-1]) < 1e-4
    assert made.uncontrolled is None


def test_a_result_carries_everything(session: EditSession, tmp_path: Path) -> None:
    seen: list[int] = []
    request = EditRequest(target_prompts=TARGETS, masks=MASKS)
    cost = session.plan(request)
    session.forget()
    result = session.edit(request, on_step=lambda record: seen.append(record.step))
    assert len(seen) == cost.calls
    assert result.passes == {"invert": STEPS, "source": cost.source, "edit": cost.edit}
    assert result.cache_bytes == cost.cache_bytes
    assert result.quality.psnr == result.quality.ceiling
    assert result.quality.psnr_to_vae == float("inf")
    pictures = result.pictures()
    assert all(picture.size == (WIDTH, HEIGHT) for picture in pictures.values())
    assert {*pictures, "sheet"} == {*edit_names(2, compare=True, masks=True)}
    mask = np.asarray(pictures["mask"]) > 127
    assert (mask == (half_mask("left") > 0)).all()
    again = session.edit(request)
    assert again.passes["source"] == 0
    assert again.targets[0].controlled.tobytes() == result.targets[0].controlled.tobytes()

    paths = result.save(tmp_path / "out")
    recipe = read_recipe(paths[0])
    assert recipe is not None
    assert recipe["kind"] == "edit"
    assert recipe["request"]["inversion"]["method"] == "direct"
    assert recipe["request"]["target_prompts"] == list(TARGETS)
    with pytest.raises(OutputError, match="holds"):
        result.save(tmp_path / "out")
    assert result.report()["quality"]["psnr_to_vae"] is None


def test_recordings_serve_every_edit_that_they_cover(session: EditSession) -> None:
    session.forget()
    first = EditRequest(target_prompts=TARGETS[:1], start_step=0, start_layer=8)
    assert session.edit(first).passes["source"] > 0
    for change in ({}, {"start_step": 2}, {"start_layer": 12}, {"guidance_scale": 1.0}):
        request = replace(first, **change)  # type: ignore[arg-type]
        assert session.edit(request).passes["source"] == 0
    assert session.edit(replace(first, start_layer=7)).passes["source"] > 0


@pytest.mark.parametrize("keep", ["device", "memory", "disk"])
def test_wherever_features_are_kept_the_picture_is_the_same(
    session: EditSession, keep: str
) -> None:
    request = EditRequest(target_prompts=TARGETS[:1], compare=False)
    wanted = outcome(session, replace(request, half=False)).controlled
    for half in (False, True):
        found = outcome(session, replace(request, keep=keep, half=half)).controlled  # type: ignore[arg-type]
        assert relative(found, wanted) < (1e-2 if half else 1e-6)


def test_files_of_a_recording_go_with_it() -> None:
    cache = FileCache(dtype=torch.float16)
    cache.put(0, 999.0, 10, torch.randn(1, 12, 8), images=1)
    folder = cache._folder
    assert len(list(folder.iterdir())) == 1
    assert cache.get(0, 999.0, 10).shape == (1, 1, 12, 8)
    del cache
    assert not folder.exists()


def test_the_pipeline_is_left_as_it_was(model: LoadedModel) -> None:
    pipeline = model.pipeline
    scheduler, state = pipeline.scheduler, dict(vars(pipeline.scheduler))
    processors = dict(pipeline.unet.attn_processors)
    config = dict(pipeline.config)

    def fail(_: object) -> None:
        raise KeyboardInterrupt

    session = invert(model, random_picture())
    session.edit(EditRequest(target_prompts=TARGETS))
    for run in (
        lambda: invert(model, random_picture(), on_step=fail),
        lambda: session.edit(EditRequest(target_prompts=("a dog",), start_step=0), on_step=fail),
    ):
        with pytest.raises(KeyboardInterrupt):
            run()
    assert pipeline.scheduler is scheduler
    assert vars(scheduler) == state
    assert dict(pipeline.config) == config
    assert all(pipeline.unet.attn_processors[name] is one for name, one in processors.items())
    assert not any(hasattr(module, "_diffusers_hook") for module in pipeline.unet.modules())


INVERSION_CHANGES: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({}, {"prompt": "a cat"}),
    ({}, {"steps": 4}),
    ({}, {"method": "ddim"}),
    ({}, {"replay": False}),
    ({}, {"fresh_steps": 1}),
    ({"fresh_steps": 1}, {"seed": 1}),
    ({"prompt": "a cat"}, {"guidance_scale": 3.0}),
    ({"method": "fixed-point"}, {"iterations": 2}),
    ({"method": "edit-friendly"}, {"seed": 1}),
    ({"method": "virtual"}, {"seed": 1}),
    ({"method": "null-text", "prompt": "a cat", "iterations": 1}, {"iterations": 2}),
)


@pytest.mark.parametrize(("base", "change"), INVERSION_CHANGES, ids=str)
def test_every_option_of_the_inversion_changes_the_target(
    model: LoadedModel, base: dict[str, Any], change: dict[str, Any]
) -> None:
    request = EditRequest(target_prompts=TARGETS[:1], compare=False)
    one, other = (
        outcome(invert(model, random_picture(), InversionRequest(**options)), request).controlled
        for options in (base, base | change)
    )
    assert relative(one, other) > 1e-5


EDIT_CHANGES: tuple[Callable[[EditRequest], EditRequest], ...] = tuple(
    lambda request, change=change: replace(request, **change)
    for change in (
        {"target_prompts": TARGETS[1:]},
        {"guidance_scale": 3.0},
        {"guidance_scale": 1.0},
        {"negative_prompt": "a bird"},
        {"start_step": 0},
        {"start_layer": 12},
        {"form": "union"},
        {"strength": 0.5},
        {"strength": 0.0},
        {"masks": MASKS},
        {"masks": EditMasks(source=half_mask("right"), targets=half_mask("right"))},
        {"masks": MASKS, "keep_background": True},
        {"masks": EditMasks(targets="dog", threshold=0.4)},
        {"masks": EditMasks(source=3, targets="dog", threshold=0.4)},
        {"masks": EditMasks(targets="dog", threshold=0.8)},
    )
)


def test_every_option_of_the_edit_changes_the_target(session: EditSession) -> None:
    base = EditRequest(target_prompts=TARGETS[:1], compare=False, half=False)
    results = [outcome(session, base).controlled]
    results += [outcome(session, change(base)).controlled for change in EDIT_CHANGES]
    for number, one in enumerate(results):
        for other in results[:number]:
            assert relative(one, other) > 1e-5, number
    alone = outcome(session, EditRequest(target_prompts=TARGETS[:1], strength=0.0))
    assert alone.uncontrolled is not None
    assert relative(alone.controlled, alone.uncontrolled) < 1e-5


def test_the_background_stays_exactly(session: EditSession) -> None:
    masks = EditMasks(source=half_mask("left"))
    request = EditRequest(target_prompts=TARGETS[:1], masks=masks, keep_background=True)
    for mode in ("joint", "cached"):
        made = outcome(session, replace(request, mode=mode)).controlled  # type: ignore[arg-type]
        source = session.trajectory.latents[-1]
        assert torch.equal(made[..., 3:], source[..., 3:])
        assert not torch.allclose(made[..., :2], source[..., :2])


def test_a_session_survives_the_disk(session: EditSession, tmp_path: Path) -> None:
    path = tmp_path / "corgi.safetensors"
    assert session.save(path) == path
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    again = load_session(path, session.model)
    assert again.picture.tobytes() == session.picture.tobytes()
    assert (again.framing, again.request) == (session.framing, session.request)
    assert torch.equal(again.trajectory.latents, session.trajectory.latents)
    assert again.trajectory.schedule == session.trajectory.schedule
    request = EditRequest(target_prompts=TARGETS[:1], compare=False)
    assert torch.equal(outcome(again, request).controlled, outcome(session, request).controlled)
    with pytest.raises(OutputError, match="is there already"):
        session.save(path)
    with pytest.raises(OutputError, match="cannot be written"):
        session.save(tmp_path / "missing" / "corgi.safetensors")


def test_a_session_that_does_not_fit_is_refused(session: EditSession, tmp_path: Path) -> None:
    model, path = session.model, tmp_path / "one.safetensors"
    session.save(path)
    whole = path.read_bytes()

    def refused(sentence: str, other: LoadedModel = model) -> None:
        with pytest.raises(ConfigError, match=sentence):
            load_session(path, other)

    stranger = tiny_models.sd()
    with torch.no_grad():
        for parameter in stranger.unet.parameters():
            parameter.mul_(1.001)
    refused("has other weights", loaded(stranger))
    scheduled = tiny_models.sd()
    scheduled.scheduler.register_to_config(steps_offset=0)
    refused("another noise schedule", loaded(scheduled))
    for bad in (whole[: len(whole) // 2], b"", b"no session at all"):
        path.write_bytes(bad)
        refused("is no session file, or was cut off")
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused("was altered or damaged")
    write_bundle(path, load_bytes(whole, tmp_path), {"schema": 99})
    refused("has the format 99")
    path.unlink()
    refused("There is no file")


def load_bytes(content: bytes, folder: Path) -> dict[str, torch.Tensor]:
    copy = folder / "copy.safetensors"
    copy.write_bytes(content)
    return load_file(copy)


@pytest.mark.parametrize(
    ("inversion", "edit", "error", "sentence"),
    [
        ({}, {"target_prompts": ()}, ConfigError, "no target prompt"),
        ({}, {"target_prompts": "a dog"}, ConfigError, "not one string"),
        ({}, {"target_prompts": (" ",)}, ConfigError, "Target prompt 1 is empty"),
        ({}, {"start_step": 3}, ScheduleError, "0 to 2"),
        ({}, {"start_layer": 16}, ScheduleError, "0 to 15"),
        ({}, {"start_step": -1}, ConfigError, "accepted is 0 and more"),
        ({}, {"guidance_scale": 0.5}, ConfigError, "accepted is 1"),
        ({}, {"strength": 2.0}, ConfigError, "accepted is 0 to 1"),
        ({}, {"mode": "fast"}, ConfigError, "accepted are cached, joint"),
        ({}, {"keep": "cloud"}, ConfigError, "accepted are device, memory, disk"),
        ({}, {"form": "mix"}, ConfigError, "accepted are replace, union"),
        ({}, {"keep_background": True}, MaskError, "needs masks"),
        ({}, {"masks": EditMasks(source=np.ones((9, 30)))}, MaskError, "same proportions"),
        ({}, {"masks": WORDS}, MaskError, "2 target masks were given for 1 targets"),
        ({"method": "magic"}, {}, ConfigError, "accepted are direct, ddim"),
        ({"steps": 0}, {}, ConfigError, "accepted is 1 to 1000"),
        ({"seed": 1}, {}, ConfigError, "direct has no use for it"),
        ({"seed": -1, "method": "virtual"}, {}, ConfigError, "accepted is 0 to"),
        ({"iterations": 2}, {}, ConfigError, "fixed-point and null-text"),
        ({"iterations": 0, "method": "null-text"}, {}, ConfigError, "at least 1"),
        ({"fresh_steps": 3}, {}, ConfigError, "accepted is 0 to 2"),
        ({"fit": "squash"}, {}, ConfigError, "accepted are auto, keep"),
        ({"guidance_scale": 0.0}, {}, ConfigError, "accepted is 1"),
        ({"method": "null-text"}, {}, ConfigError, "needs the source prompt"),
        ({"method": "negative-prompt"}, {}, ConfigError, "there is none"),
        ({"method": "virtual", "replay": False}, {}, ConfigError, "leave it on"),
        (
            {"method": "null-text", "prompt": "a cat", "guidance_scale": 1.0},
            {},
            ConfigError,
            "guidance 1 is none",
        ),
    ],
)
def test_what_cannot_be_is_said(
    model: LoadedModel,
    inversion: dict[str, Any],
    edit: dict[str, Any],
    error: type[Exception],
    sentence: str,
) -> None:
    with pytest.raises(error, match=sentence):
        invert(model, random_picture(), InversionRequest(**inversion)).edit(
            EditRequest(**{"target_prompts": TARGETS[:1], **edit})
        )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({}, "No mask was given"),
        ({"source": "cat", "targets": half_mask("left")}, "pictures or words"),
        ({"targets": half_mask("left")}, "The source has no mask"),
        ({"source": "cat"}, "Name the subject of the targets"),
    ],
)
def test_masks_check_themselves(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MaskError, match=sentence):
        EditMasks(**options)


def test_a_plan_before_anything_runs_is_the_session_s(
    model: LoadedModel, session: EditSession
) -> None:
    request = EditRequest(target_prompts=TARGETS)
    cost = plan(model, random_picture(), InversionRequest(), request)
    assert cost == session.plan(request)
    assert (cost.inversion, cost.plain) == (session.passes, 2 * STEPS)
    assert cost.trajectory_bytes == session.trajectory.nbytes
    assert any("plain generation" in line for line in cost.lines())


@pytest.mark.parametrize("method", INVERSIONS)
def test_no_inversion_costs_more_than_it_says(model: LoadedModel, method: str) -> None:
    few = 1 if method in ("fixed-point", "null-text") else None
    asked = InversionRequest(method=method, prompt="a cat", guidance_scale=2.0, iterations=few)
    made = invert(model, random_picture(), asked)
    cost = plan(model, random_picture(), asked, EditRequest(target_prompts=TARGETS))
    assert made.passes <= cost.inversion
    assert made.trajectory.method == method
    if method not in ("fixed-point", "null-text"):
        assert made.passes == cost.inversion


def test_the_public_names_are_there() -> None:
    assert masactrl.invert is invert
    assert masactrl.EditRequest is EditRequest
    assert ControlNotApplied is masactrl.ControlNotApplied
