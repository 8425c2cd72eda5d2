from __future__ import annotations

import copy
import json
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from masactrl import generate
from masactrl.cli import doctor, doctor_speed, main
from masactrl.models import LoadedModel
from masactrl.models.locate import locate


def test_the_report_without_drawing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--no-draw", "--device", "cpu"]) == 0
    shown = capsys.readouterr().out
    for words in ("torch", "extra lora", "cache", "device", "memory", "float32", "used by auto"):
        assert words in shown


def test_a_missing_extra_is_said_with_its_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'masactrl[app]'" in "".join(one.seen for one in doctor.extras())
    assert main(["app"]) == 1
    assert "pip install 'masactrl[app]'" in capsys.readouterr().err


def test_a_model_that_draws_something_else_is_not_well(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("masactrl.models.load_pipeline", lambda *args, **kwargs: model)
    monkeypatch.setattr(doctor, "_PLACE", "nowhere")
    assert main(["doctor", "--device", "cpu", "--json"]) == 1
    shown = capsys.readouterr()
    told = json.loads(shown.out)
    assert told["well"] is False
    assert "Not well: embedded model" in shown.err
    control = next(one for one in told["checks"] if one["name"] == "control")
    assert control["state"] == "good"


@pytest.mark.parametrize(
    ("seconds", "state", "said"),
    [
        (
            (2.0, 1.0),
            doctor_speed.State.GOOD,
            "a step is 2.00 times as fast with --dtype bfloat16; pict",
        ),
        ((1.0, 2.0), doctor_speed.State.NOTE, "a step is 0.50 times as fast: it does not pay here"),
    ],
)
def test_bfloat16_is_measured(
    seconds: tuple[float, float],
    state: doctor_speed.State,
    said: str,
    model: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fast = copy.deepcopy(model.pipeline).to(dtype=torch.bfloat16)
    monkeypatch.setattr(
        "masactrl.models.load_pipeline", lambda *args, **kwargs: replace(model, pipeline=fast)
    )
    assert doctor_speed._call(model) > 0
    took = {"float32": seconds[0], "bfloat16": seconds[1]}
    monkeypatch.setattr(doctor_speed, "_call", lambda asked: took[asked.dtype])
    monkeypatch.setattr(doctor_speed, "ASKED", replace(doctor_speed.ASKED, steps=2))
    made = tuple(generate(model, doctor_speed.ASKED).pictures().values())
    found = doctor_speed.half(model, made)
    assert (found.state, found.seen[: len(said)]) == (state, said)


@pytest.mark.slow
def test_this_installation_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    locate("puppets")
    assert main(["doctor", "--device", "cpu"]) == 0
    assert "snow in 3 of 3" in capsys.readouterr().out


def test_a_port_in_use_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the studio needs the extra app")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", "--port", str(port), "--no-browser"]) == 1
    assert f"Port {port} of 127.0.0.1 cannot be used" in capsys.readouterr().err
    assert main(["app", "--host", "not.a.host.invalid", "--no-browser"]) == 2
    assert "no address" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("first", "before", "after", "said"),
    [
        (60.0, 2.0, 1.5, "it pays from run 117 on"),
        (1.0, 2.0, 1.0, "it pays from run 1 on"),
        (3.0, 1.0, 0.99, "it does not pay here"),
        (3.0, 1.0, 1.2, "it does not pay here"),
    ],
)
def test_compiling_pays_from_some_run_on(
    first: float, before: float, after: float, said: str
) -> None:
    assert doctor_speed.pays_after(first, before, after) == said


def test_compiling_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    loaded: list[str] = []

    def load(*_args: object, compiled: str = "none", **_options: object) -> object:
        loaded.append(compiled)
        return SimpleNamespace(compiled=compiled)

    def run(made: object, _asked: object) -> object:
        slow = getattr(made, "compiled", "") == "none"
        return SimpleNamespace(seconds=2.0 if slow else 1.0)

    monkeypatch.setattr("masactrl.models.load_pipeline", load)
    monkeypatch.setattr(doctor_speed, "generate", run)
    assert main(["doctor", "--no-draw", "--compile", "--device", "cpu", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["checks"][-1]
    assert (told["name"], loaded) == ("compile kernels", ["none", "kernels"])
    assert told["seen"] == (
        "2.00 s a run become 1.00 s, the first takes 1.0 s: it pays from run 1 on"
    )
