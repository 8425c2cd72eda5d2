"""New noise in the targets' start: what it is, what it leaves alone, and where it cannot be."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import torch
from editing_parts import STEPS, TARGETS, outcome, random_picture, relative

from masactrl.cli import main
from masactrl.errors import ConfigError, MasaCtrlError
from masactrl.pictures.images import read_recipe
from masactrl.runs.invert import EditRequest

if TYPE_CHECKING:
    from pathlib import Path

    from editing_parts import Inverted
    from torch import Tensor


def ddim(session: Any, z: Tensor, prompt: str) -> Tensor:
    """DDIM without guidance and without control, written out."""
    pipeline, schedule = session.model.pipeline, session.trajectory.schedule
    states = pipeline.encode_prompt(prompt, "cpu", 1, False)[0]
    with torch.no_grad():
        for step, t in enumerate(schedule.timesteps):
            a, a_next = schedule.alpha_bar[step], schedule.alpha_bar[step + 1]
            eps = pipeline.unet(z, t, encoder_hidden_states=states).sample
            z_0 = (z - (1 - a) ** 0.5 * eps) / a**0.5
            z = a_next**0.5 * z_0 + (1 - a_next) ** 0.5 * eps
    return z


@pytest.mark.parametrize("share", [0.3, 1.0])
@pytest.mark.parametrize("mode", ["joint", "cached"])
def test_every_target_starts_from_the_same_mixture(
    inverted: Inverted, share: float, mode: Any
) -> None:
    session = inverted()
    request = EditRequest(
        target_prompts=TARGETS, guidance_scale=1.0, fresh_noise=share, seed=5, mode=mode, half=False
    )
    z_t = session.trajectory.latents[0]
    eps = torch.randn(z_t.shape, generator=torch.Generator().manual_seed(5))
    start = (1 - share) ** 0.5 * z_t + share**0.5 * eps
    made = outcome(session, request)
    assert made.uncontrolled is not None
    for found, prompt in zip(made.uncontrolled, TARGETS, strict=True):
        assert relative(found[None], ddim(session, start, prompt)) < 1e-4
    assert torch.equal(made.source, outcome(session, EditRequest(target_prompts=TARGETS)).source)


def test_none_is_the_papers_edit_to_the_bit(inverted: Inverted) -> None:
    session, plain = inverted(), EditRequest(target_prompts=TARGETS)
    none = EditRequest(target_prompts=TARGETS, fresh_noise=0.0)
    assert torch.equal(outcome(session, none).controlled, outcome(session, plain).controlled)
    usual = EditRequest(target_prompts=TARGETS, fresh_noise=0.5)
    named = EditRequest(target_prompts=TARGETS, fresh_noise=0.5, seed=0)
    other = EditRequest(target_prompts=TARGETS, fresh_noise=0.5, seed=1)
    assert torch.equal(outcome(session, usual).controlled, outcome(session, named).controlled)
    assert relative(outcome(session, other).controlled, outcome(session, named).controlled) > 1e-3


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"fresh_noise": 1.5}, "accepted is 0 to 1"),
        ({"seed": 3}, "or ask for fresh_noise"),
        ({"fresh_noise": 0.5, "method": "sdedit"}, "begin with noise of their own"),
    ],
)
def test_what_cannot_be(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        EditRequest(target_prompts=TARGETS, **options)


@pytest.mark.parametrize("method", ["virtual", "edit-friendly"])
def test_an_inversion_that_draws_noise_needs_none(inverted: Inverted, method: str) -> None:
    with pytest.raises(MasaCtrlError, match=f"{method} inversion draws the noise of every step"):
        inverted(method=method).edit(EditRequest(target_prompts=TARGETS, fresh_noise=0.5))


def test_the_command_and_its_recipe(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    random_picture().save(photo)
    words = ["edit", str(photo), "--to", "a dog", "--model", str(model_folder), "--device", "cpu"]
    words += ["--steps", str(STEPS), "--start-step", "1"]
    more = ["--fresh-noise", "0.5", "--seed", "7"]
    assert main([*words, *more, "-o", str(tmp_path / "a"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["request"]["fresh_noise"], told["request"]["seed"]) == (0.5, 7)
    assert told["inversion"]["seed"] is None
    path = tmp_path / "a" / "target1-controlled.png"
    assert read_recipe(path)["request"]["fresh_noise"] == 0.5  # type: ignore[index]
    given = ["--model", str(model_folder), "--input", str(photo)]
    assert main(["rerun", str(path), *given]) == 0
    assert capsys.readouterr().out == "The picture is the same to the bit.\n"
    assert main(["info", str(path), "--cli"]) == 0
    line = shlex.split(capsys.readouterr().out)[1:]
    at = line.index("--fresh-noise")
    assert line[at : at + 2] == ["--fresh-noise", "0.5"]
    assert line[line.index("--seed") + 1] == "7"
    assert main([*words, "--seed", "7", "-o", str(tmp_path / "b")]) == 2
    assert "direct has no use for it" in capsys.readouterr().err


def test_comparisons_and_grids_have_it(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "photo.png"
    random_picture().save(photo)
    fixed = ["--to", "a dog", "--model", str(model_folder), "--device", "cpu"]
    fixed += ["--steps", str(STEPS)]
    methods = ["--method", "masactrl", "--method", "sdedit", "--fresh-noise", "0.5", "--seed", "7"]
    assert main(["compare", str(photo), *fixed, *methods, "-o", str(tmp_path / "a")]) == 0
    capsys.readouterr()
    given = ["--model", str(model_folder), "--input", str(photo)]
    for name in ("masactrl", "sdedit"):
        assert main(["rerun", str(tmp_path / "a" / f"{name}.png"), *given]) == 0
        assert capsys.readouterr().out == "The picture is the same to the bit.\n"
    assert main(["info", str(tmp_path / "a" / "masactrl.png"), "--cli"]) == 0
    line = shlex.split(capsys.readouterr().out)[1:]
    where = {"tiny": str(model_folder), "photo.png": str(photo)}
    assert main([*(where.get(word, word) for word in line), "-o", str(tmp_path / "b")]) == 0
    made = [(tmp_path / folder / "masactrl.png").read_bytes() for folder in "ab"]
    assert made[0] == made[1]
    axes = ["fresh-noise=0,0.5", "start-step=1"]
    assert main(["sweep", str(photo), *axes, *fixed, "-o", str(tmp_path / "c")]) == 0
    cells = [tmp_path / "c" / f"fresh-noise-{share}" / "sweep.png" for share in ("0", "0.5")]
    assert cells[0].read_bytes() != cells[1].read_bytes()
    capsys.readouterr()
    prompt = ["compare", "a cat", *fixed, "--fresh-noise", "0.5", "-o", str(tmp_path / "d")]
    assert main(prompt) == 2
    assert "--fresh-noise belongs to a picture" in capsys.readouterr().err
