from __future__ import annotations

import inspect
import os
import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import typer

import masactrl
from masactrl import __version__
from masactrl.cli import generate as generate_command
from masactrl.cli import main
from masactrl.cli.root import TRACEBACK_VARIABLE, app
from masactrl.errors import ControlWarning, MasaCtrlError, ScheduleError

SHORT = ["generate", "a cat", "--to", "a dog"]


def fail_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise error

    monkeypatch.setattr(generate_command, "prepare_folder", fail)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"masactrl {__version__}\n"


def test_help_is_there_for_every_command_and_every_option() -> None:
    def walk(command: typer.core.TyperCommand, name: str) -> None:
        assert command.help, name
        for parameter in command.params:
            assert getattr(parameter, "help", None), f"{name} {parameter.name}"
        for child_name, child in getattr(command, "commands", {}).items():
            walk(child, f"{name} {child_name}")

    walk(typer.main.get_command(app), "masactrl")


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["generate", "--help"], ["demo", "-h"]])
def test_help_is_success(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    assert "Usage: masactrl" in capsys.readouterr().out


def test_a_group_alone_shows_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["puppets"]) == 2
    shown = capsys.readouterr()
    assert "Usage: masactrl puppets" in shown.out
    assert shown.err == ""


def leaves() -> list[tuple[str, typer.core.TyperCommand]]:
    """Every command that runs something, with its words."""
    found = []

    def walk(command: typer.core.TyperCommand, name: str) -> None:
        children = getattr(command, "commands", {})
        for child_name, child in children.items():
            walk(child, f"{name} {child_name}")
        if not children:
            found.append((name, command))

    walk(typer.main.get_command(app), "masactrl")
    return found


@pytest.mark.parametrize(("name", "command"), leaves(), ids=lambda one: str(one))
def test_the_examples_in_the_help_are_commands(name: str, command: typer.core.TyperCommand) -> None:
    text = inspect.cleandoc(command.help or "").replace("\b", "")
    examples = [part for part in text.split("\n\n") if part.startswith("Example: ")]
    assert examples, name
    for example in examples:
        words = shlex.split(example.removeprefix("Example: "))
        assert " ".join(words).startswith(f"{name}")
        command.make_context(name, words[len(name.split()) :])  # refuses what is no option


def test_options_mean_the_same_everywhere() -> None:
    shared = "steps cfg size start-step start-layer form strength model revision lora device dtype"
    shared += " offload allow-pickle out config json no-metadata overwrite"
    said: dict[str, set[str]] = {}
    for name, command in leaves():
        if name.split()[1] in ("generate", "edit", "sweep", "compare"):
            for one in command.params:
                said.setdefault(one.opts[-1].lstrip("-"), set()).add(str(one.help))
    for flag in shared.split():
        assert len(said[flag]) == 1, flag


def test_numbers_say_their_range() -> None:
    """The workshop of the embedded model has a say of its own."""
    silent = [
        f"{name} {one.opts[-1]}: {one.help}"
        for name, command in leaves()
        if name.split()[1] not in ("bench", "puppets")
        for one in command.params
        if one.type_descriptor.annotation in (int, float)
        and (one.min, one.max) == (None, None)  # those with a range show it by themselves
        and not re.search(r"\d|the model's last", str(one.help))
    ]
    assert silent == []


def test_help_of_generate_names_ranges_and_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    main(["generate", "--help"])
    shown = capsys.readouterr().out
    for words in ("1 to 1000", "0 (none) to 1", "steps - 1", "0 to 15", "the model's", "Example:"):
        assert words in shown


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["draw"], "No such command 'draw'"),
        (["generate"], "Missing argument 'SOURCE'"),
        (["generate", "a cat"], "Missing option '--to'"),
        ([*SHORT, "--steps", "0"], "steps=0 was given; accepted is 1 to 1000."),
        ([*SHORT, "--steps", "many"], "--steps"),
        ([*SHORT, "--form", "mix"], "'mix' is not one of 'replace', 'union'"),
        ([*SHORT, "--siez", "8x8"], "No such option"),
    ],
)
def test_what_was_not_meant_like_this_exits_with_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("Error: ")
    assert sentence in shown.err
    assert len(shown.err.splitlines()) == 1


def test_errors_of_ours_are_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sentence = "Something [bold]odd[/bold] with 3 of 4 rows. " + "A long story. " * 20
    for error, code in ((MasaCtrlError(sentence), 1), (ScheduleError(sentence), 2)):
        fail_with(error, monkeypatch)
        assert main(SHORT) == code
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err == f"Error: {sentence}\n"


def test_an_interrupt_exits_with_130(monkeypatch: pytest.MonkeyPatch) -> None:
    fail_with(KeyboardInterrupt(), monkeypatch)
    assert main(SHORT) == 130


def test_an_unforeseen_error_is_a_sentence_unless_its_place_is_wanted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(TypeError("no such thing\nand more"), monkeypatch)
    assert main(SHORT) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("Error: Unforeseen TypeError: no such thing (")
    assert "Traceback" not in shown
    monkeypatch.setenv(TRACEBACK_VARIABLE, "1")
    with pytest.raises(TypeError, match="no such thing"):
        main(SHORT)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
    ids=["cuda", "cpu", "cublas", "python"],
)
def test_no_memory_left_says_what_to_lower(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(error, monkeypatch)
    assert main(SHORT) == 1
    shown = capsys.readouterr().err
    assert "lower --size" in shown
    assert "Unforeseen" not in shown


def test_warnings_of_ours_are_sentences_and_others_stay(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*args: object, **kwargs: object) -> None:
        for _ in range(2):  # as two runs of one command would
            warnings.warn("Mind the [gap].", ControlWarning, stacklevel=1)
        raise MasaCtrlError("Enough.")

    monkeypatch.setattr(generate_command, "prepare_folder", warn)
    usual = warnings.showwarning
    assert main(SHORT) == 1
    assert capsys.readouterr().err == "Warning: Mind the [gap].\nError: Enough.\n"
    assert warnings.showwarning is usual


def run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run Python on the package that is being tested, installed or not."""
    return subprocess.run(
        [sys.executable, *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(masactrl.__file__).parents[1])},
    )


def test_the_entry_point_as_a_process(tmp_path: Path) -> None:
    done = run("-m", "masactrl", "generate", "", "--to", "a dog", "-o", f"{tmp_path}/out")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "Error: The source prompt is empty; say what the source picture shows.\n"


def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from masactrl.cli import main; main(['--help']); "
        "print(sorted({'torch', 'diffusers', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    assert run("-c", code).stderr == "[]\n"
