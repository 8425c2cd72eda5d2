"""What an edit gives back, what it costs, what it leaves alone, and the session on the disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_models
import torch
from editing_parts import (
    HEIGHT,
    MASKS,
    STEPS,
    TARGETS,
    WIDTH,
    half_mask,
    loaded,
    outcome,
    random_picture,
)
from safetensors.torch import load_file

import masactrl
from masactrl.errors import ConfigError, ControlNotApplied, OutputError
from masactrl.inversion import inversions_of
from masactrl.models import LoadedModel
from masactrl.pictures.images import read_recipe
from masactrl.runs.edit_result import edit_names
from masactrl.runs.invert import EditRequest, InversionRequest, invert, load_session, plan
from masactrl.runs.session import EditSession
from masactrl.runs.session_arrays import write_bundle

if TYPE_CHECKING:
    pass


# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


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
    assert {*result.latents} == {n for n in pictures if "mask" not in n and n != "input"}
    assert torch.equal(result.latents["reconstruction"], session.trajectory.latents[-1][0])
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


def test_a_plan_before_anything_runs_is_the_session_s(model: LoadedModel) -> None:
    request = EditRequest(target_prompts=TARGETS)
    session = invert(model, random_picture(), edit=request)
    cost = plan(model, random_picture(), InversionRequest(), request, ahead=True)
    assert cost == session.plan(request)
    assert (cost.inversion, cost.plain) == (session.passes, 2 * STEPS)
    assert cost.trajectory_bytes == session.trajectory.nbytes
    assert any("plain generation" in line for line in cost.lines())


@pytest.mark.parametrize("method", inversions_of("diffusion"))
def test_no_inversion_costs_more_than_it_says(model: LoadedModel, method: str) -> None:
    few = 1 if method in ("fixed-point", "null-text") else None
    asked = InversionRequest(
        method=method, source_prompt="a cat", guidance_scale=2.0, iterations=few
    )
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
