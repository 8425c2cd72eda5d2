"""Several seeds, jobs from a file, plans, LoRAs, interrupts, and what leaves no trace."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from PIL import Image

import masactrl
from masactrl.cli import generate as command
from masactrl.cli import main
from masactrl.cli.parsing import parse_seeds
from masactrl.pictures.images import read_recipe

pytestmark = pytest.mark.usefixtures("loaded_once")

SHORT = ["--steps", "2", "--start-step", "1", "--size", "16x16", "--device", "cpu"]


@pytest.fixture
def words(model_folder: Path, tmp_path: Path) -> list[str]:
    words = ["generate", "a cat", "--to", "a dog", "--model", str(model_folder), *SHORT]
    return [*words, "-o", str(tmp_path / "out")]


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (3,)), ("1,2,5-8", (1, 2, 5, 6, 7, 8)), (" 4 - 4 ,9", (4, 9))]
)
def test_seeds(text: str, seeds: tuple[int, ...]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "1,,2", "3-1", "1,1", "1-2000", "-1", "1.5"])
def test_what_are_no_seeds(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_seeds(text)


def test_every_seed_has_its_folder(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--seeds", "1,4", "--json", "--no-metadata"]) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [one["request"]["seed"] for one in runs] == [1, 4]
    for seed in (1, 4):
        folder = tmp_path / "out" / f"seed-{seed}"
        assert len(list(folder.glob("*.png"))) == 4
        assert list(folder.glob("*.json")) == []
        with Image.open(folder / "sheet.png") as image:
            image.load()
            assert image.info == {}
    assert main([*words, "--seeds", "1,4", "--seed", "1"]) == 2
    assert "give one of them" in capsys.readouterr().err


def test_flags_win_over_the_file_and_the_file_over_the_model(
    tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "job.toml"
    job.write_text(
        f'source = "a cat"\nto = ["a dog", "a fox"]\nmodel = "{model_folder}"\nseeds = "1-3"\n'
        'start-step = 1\nsteps = 8\ncfg = 3\nsize = "16x24"\nno_metadata = true\n'
    )
    words = ["generate", "--config", str(job), "--steps", "6", "--plan", "--json"]
    assert main(words) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["seeds"] == [1, 2, 3]
    assert plan["steps_in_all"] == 18
    settings = plan["settings"]
    assert (settings["steps"], settings["start_step"], settings["guidance_scale"]) == (6, 1, 3.0)
    assert (settings["width"], settings["height"], settings["start_layer"]) == (16, 24, 10)
    assert settings["target_prompts"] == ["a dog", "a fox"]
    assert main([*words, "--seed", "9", "--to", "a bird"]) == 0
    plan = json.loads(capsys.readouterr().out)["plan"]
    assert plan["seeds"] == [9]
    assert plan["settings"]["target_prompts"] == ["a bird"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("stepz = 3", "no option of generate; did you mean steps? accepted are"),
        ("steps = 3.5", "should be a valid integer"),
        ("steps = true", "one text or number, not True"),
        ("json = 1", "true or false, not 1"),
        ("steps = [1]", "one text or number"),
        ("steps =", "no TOML file"),
    ],
)
def test_a_wrong_file_is_a_sentence(
    text: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text(text)
    assert main(["generate", "a", "--to", "b", "--config", str(tmp_path / "job.toml")]) == 2
    shown = capsys.readouterr().err
    assert sentence in shown
    assert len(shown.splitlines()) == 1


def test_a_plan_makes_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "steps in all: 2, each on 3 pictures at once" in shown
    assert "Nothing was made." in shown
    assert not (tmp_path / "out").exists()


def test_a_first_interrupt_keeps_what_is_done(
    words: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = command.run

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return run(*args, **kwargs)

    before = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(command, "run", interrupted)
    assert main([*words, "--seeds", "1-3"]) == 130
    shown = capsys.readouterr()
    assert "Finishing this picture" in shown.err
    assert "1 of 3 runs are done" in shown.err
    assert (tmp_path / "out" / "seed-1" / "sheet.png").is_file()
    assert not (tmp_path / "out" / "seed-2" / "sheet.png").exists()
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_interrupt_stops_at_once(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def twice(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not reached")

    monkeypatch.setattr(command, "run", twice)
    assert main(words) == 130
    assert list((tmp_path / "out").iterdir()) == []


def test_a_lora_changes_the_pictures_and_is_in_the_recipe(
    words: list[str], tmp_path: Path, model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra lora")
    import tiny_models
    from diffusers import StableDiffusionPipeline
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipe = tiny_models.sd()
    torch.manual_seed(5)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False))
    StableDiffusionPipeline.save_lora_weights(
        tmp_path, unet_lora_layers=get_peft_model_state_dict(pipe.unet)
    )
    (file,) = tmp_path.glob("*.safetensors")
    pictures = []
    for scale, folder in (("0", "none"), ("0.8", "some")):
        assert main([*words, "--lora", f"{file}:{scale}", "-o", str(tmp_path / folder)]) == 0
        with Image.open(tmp_path / folder / "source.png") as image:
            pictures.append(image.tobytes())
    assert pictures[0] != pictures[1]
    path = tmp_path / "some" / "source.png"
    recipe = read_recipe(path)
    assert recipe is not None
    (told,) = recipe["model"]["loras"]
    assert (told["name"], told["scale"]) == (file.name, 0.8)
    assert str(tmp_path) not in json.dumps(recipe)
    capsys.readouterr()
    again = ["rerun", str(path), "--model", str(model_folder), "--lora", f"{file}:0.8"]
    assert main(again) == 0
    assert "same to the bit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "code", "sentence"),
    [
        (["--lora", "a.bin"], 2, ".safetensors files"),
        (["--lora", "missing.safetensors:0.5"], 1, "no LoRA file missing.safetensors"),
        (["--lora", "a.safetensors:nan"], 2, "finite numbers"),
        (["--offload", "model"], 2, "the device is the CPU"),
        (["--revision", "main"], 2, "belongs to a Hub id"),
        (["--model", "old.ckpt"], 2, "--allow-pickle"),
        (["--config", "missing.toml"], 2, "There is no file missing.toml"),
    ],
)
def test_bad_input_is_one_sentence(
    change: list[str], code: int, sentence: str, words: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    pytest.importorskip("peft", reason="LoRA needs the extra lora")
    assert main([*words, *change]) == code
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert len(shown.err.splitlines()) == 1
    assert shown.out == ""


@pytest.mark.slow
def test_a_terminal_shows_progress_and_ctrl_c_keeps_what_is_done(
    words: list[str], tmp_path: Path
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(masactrl.__file__).parents[1])}
    ours, theirs = pty.openpty()
    shown = ""
    with subprocess.Popen(
        [sys.executable, "-m", "masactrl", *words, "--seeds", "1-999"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    ) as run:
        os.close(theirs)
        while "steps" not in shown:  # until the first picture is on its way
            shown += os.read(ours, 65536).decode()
        os.write(ours, b"\x03")  # what the key sends
        piped, _ = run.communicate(timeout=300)
        while "are done" not in shown:
            shown += os.read(ours, 65536).decode()
    os.close(ours)
    assert run.returncode == 130
    assert "Denoising" in shown
    assert "Finishing this picture" in shown
    assert b"Denoising" not in piped
    assert (tmp_path / "out" / "seed-1" / "sheet.png").is_file()
    assert not (tmp_path / "out" / "seed-999" / "sheet.png").exists()
