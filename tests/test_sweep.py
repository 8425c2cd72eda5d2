"""Sweeps: the axes' few signs, and cells that are the plain edits of their S and L."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from masactrl.errors import ConfigError, ControlWarning, OutputError, ScheduleError
from masactrl.pictures.images import read_recipe
from masactrl.runs.generate import GenerateRequest, generate
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.recipe import Recipe
from masactrl.studies.sweep import (
    Axes,
    SweepResult,
    parse_axes,
    sweep_calls,
    sweep_edit,
    sweep_generate,
    sweep_names,
)
from masactrl.studies.sweep_grids import check_others, grid_name, with_values

if TYPE_CHECKING:
    from pathlib import Path

    from masactrl.models import LoadedModel
    from masactrl.runs.session import EditSession

TARGETS = ("a dog running", "a red horse")
AXES = Axes(start_steps=(2, 1), start_layers=(12, 9))  # not in order, as somebody may want it
STEPS = 3


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture, dtype=float)


def apart(one: Image.Image, other: Image.Image) -> float:
    """Mean difference in levels; the tiny model's last steps change few pixels, by one level."""
    return float(np.abs(pixels(one) - pixels(other)).mean())


def photo() -> Image.Image:
    values = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize(
    ("words", "steps", "layers"),
    [
        (["start-step=2-8(+2)", "start-layer=8,10,12"], (2, 4, 6, 8), (8, 10, 12)),
        (["start_layer=3"], (), (3,)),
        (["start-step=0-2, 10"], (0, 1, 2, 10), ()),
        (["start-step=7,1-5(+3)"], (7, 1, 4), ()),
    ],
)
def test_axes(words: list[str], steps: tuple[int, ...], layers: tuple[int, ...]) -> None:
    axes = parse_axes(words)
    assert (axes.start_steps, axes.start_layers) == (steps, layers)


def test_any_other_setting_makes_grids_of_their_own() -> None:
    axes = parse_axes(["cfg=2,7.5", "start-step=1-2", "form=replace,union"])
    assert axes.grid == Axes(start_steps=(1, 2))
    assert [dict(one) for one in axes.runs()] == [
        {"cfg": cfg, "form": form} for cfg in (2.0, 7.5) for form in ("replace", "union")
    ]
    assert [grid_name(one) for one in axes.runs()][:2] == ["cfg-2_form-replace", "cfg-2_form-union"]
    request = GenerateRequest(source_prompt="a cat", target_prompts=("a dog",))
    assert with_values(request, {"cfg": 2.0, "keep-background": True}).guidance_scale == 2
    with pytest.raises(ConfigError, match=r"cfg makes a grid for each of its values"):
        axes.filled(1, 2)
    with pytest.raises(ConfigError, match=r"fit is no setting of this kind of source; accepted"):
        check_others(parse_axes(["fit=auto,keep"]), GenerateRequest)
    with pytest.raises(ConfigError, match=r"guidance_scale=0.5 was given"):
        with_values(request, {"cfg": 0.5})


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "needs an axis, for example start-step"),
        (["start-step"], "is no axis; accepted are start-step and start-layer, for example"),
        (["start-stp=2"], "did you mean start-step"),
        (["prompt=a"], "any other setting that is a number or a choice: cfg, "),
        (["method=sdedit"], "is no axis"),
        (["form=both"], "form=both is none of replace, union"),
        (["cfg=2,x"], "cfg=2,x has values that are none; write numbers like 4,7.5"),
        (["keep-background=on"], "write yes,no"),
        (["seed=0-99", "steps=1-9"], "make 900 cells; accepted are up to 400"),
        (["start-step=a"], "a part 'a' that is no value; write values like 8,10,12 or 2-8"),
        (["start-step=1,,2"], "a part '' that is no value"),
        (["start-step="], "a part '' that is no value"),
        (["start-step=-3"], "a part '-3' that is no value"),
        (["start-step=8-2"], "ends at 2 before it begins at 8"),
        (["start-step=2-8(+0)"], "steps of 0"),
        (["start-step=2(+2)"], "that is no value"),
        (["start-step=1-8000"], "more than 400 values"),
        (["start-step=0-29", "start-layer=0-29"], "make 900 cells; accepted are up to 400"),
        (["start-step=1", "start_step=2"], "given twice"),
        (["start-step=1,1-2"], "the value 1 twice"),
    ],
)
def test_what_is_no_axis_is_said(words: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        parse_axes(words)


@pytest.fixture(scope="module")
def tiny(model_folder: Path) -> LoadedModel:
    from masactrl.models import load_pipeline

    return load_pipeline(model_folder, device="cpu")


@pytest.fixture(scope="module")
def session(tiny: LoadedModel) -> EditSession:
    return invert(tiny, photo(), InversionRequest(steps=STEPS))


@pytest.fixture(scope="module")
def swept(session: EditSession) -> SweepResult:
    return sweep_edit(session, EditRequest(target_prompts=TARGETS), AXES)


def test_a_cell_is_the_edit_of_its_s_and_l(session: EditSession, swept: SweepResult) -> None:
    for cell in AXES.cells():
        session.forget()
        request = EditRequest(target_prompts=TARGETS, start_step=cell[0], start_layer=cell[1])
        alone = session.edit(request)
        for target, one in zip(alone.targets, swept.targets, strict=True):
            assert one.prompt == target.prompt
            assert apart(one.cells[cell], target.controlled) < 0.005
            assert target.uncontrolled is not None
            assert apart(one.uncontrolled, target.uncontrolled) < 0.005
            assert apart(one.cells[cell], one.uncontrolled) > 0.05
    cells = list(swept.targets[0].cells.values())
    assert all(apart(cells[k], cells[j]) > 0 for k in range(4) for j in range(k))
    assert apart(swept.source, alone.reconstruction) == 0


def test_the_source_is_recorded_once(session: EditSession, swept: SweepResult) -> None:
    # inversion, source at steps 0 to 2, the first cell with its twins, the other three without
    assert swept.passes == 3 + 3 + 2 * STEPS * 2 * (2 + 3)
    told: list[int] = []
    session.forget()
    request = EditRequest(target_prompts=TARGETS)
    calls = sweep_calls(session, request, AXES)
    again = sweep_edit(session, request, AXES, on_step=lambda record: told.append(record.step))
    assert len(told) == calls == 3 + 4 * STEPS
    assert again.passes == swept.passes


def test_an_axis_left_out_is_the_model_s(session: EditSession) -> None:
    made = sweep_edit(session, EditRequest(target_prompts=TARGETS[:1]), Axes(start_steps=(1, 2)))
    assert made.axes.start_layers == (session.model.preset.start_layer,)


def test_a_synthesised_source(tiny: LoadedModel) -> None:
    request = GenerateRequest(source_prompt="a cat sitting", target_prompts=TARGETS, steps=STEPS)
    told: list[int] = []
    made = sweep_generate(tiny, request, AXES, on_step=lambda record: told.append(record.step))
    assert len(told) == STEPS * (2 + 4)
    assert made.picture is None
    for cell in AXES.cells():
        alone = generate(tiny, replace(request, start_step=cell[0], start_layer=cell[1]))
        assert apart(made.source, alone.source) < 0.005
        for target, one in zip(alone.targets, made.targets, strict=True):
            assert apart(one.cells[cell], target.controlled) < 0.005
            assert apart(one.uncontrolled, target.uncontrolled) < 0.005
    other = GenerateRequest(source_prompt="a cat", target_prompts=TARGETS, method="fixed-seed")
    with pytest.raises(ConfigError, match="belong to the method masactrl"):
        sweep_generate(tiny, other, AXES)
    for axes in (Axes(start_steps=(1, STEPS)), Axes(start_layers=(9, 16))):
        with pytest.raises(ScheduleError):
            sweep_generate(tiny, request, axes)


def test_figure_recipe_and_cells_are_written(swept: SweepResult, tmp_path: Path) -> None:
    paths = swept.save(tmp_path)
    assert [path.stem for path in paths] == list(sweep_names(2, AXES))
    written: dict[str, Any] = json.loads((tmp_path / "sweep.json").read_text())
    assert written == read_recipe(paths[0])
    assert written["request"]["axes"] == {"start_step": [2, 1], "start_layer": [12, 9]}
    assert (written["kind"], written["request"]["of"]) == ("sweep", "edit")
    assert "start_step" not in written["request"]["run"]
    told = swept.to_json()
    assert (told["kind"], told["of"], len(told["cells"])) == ("sweep", "edit", 8)
    assert json.loads(json.dumps(told)) == told
    recipe = Recipe.parse(read_recipe(tmp_path / "target2-S1-L12.png"))
    assert (recipe.kind, recipe.picture) == ("sweep", "target2-S1-L12")
    with Image.open(tmp_path / "target2-S1-L12.png") as cell:
        assert "Steps: 3" in cell.text["parameters"]  # for other tools
    with Image.open(paths[0]) as figure:  # two targets, each with a row of sources and two of cells
        assert figure.width > 3 * 192
        assert figure.height > 6 * 192
    assert swept.to_sheet({(1, 9): "best"}).size[0] == figure.width
    with pytest.raises(OutputError, match="already"):
        swept.save(tmp_path)


def test_a_sweep_that_is_stopped_keeps_its_cells(
    tiny: LoadedModel, session: EditSession, tmp_path: Path
) -> None:
    request = GenerateRequest(source_prompt="a cat", target_prompts=TARGETS, steps=STEPS)
    stopped = sweep_generate(tiny, request, AXES, stop=lambda: True)
    assert not stopped.whole
    assert {path.stem for path in stopped.save(tmp_path / "a")} == {
        "target1-S2-L12",
        "target2-S2-L12",
    }
    asked = iter((False, True))
    edited = sweep_edit(
        session, EditRequest(target_prompts=TARGETS), AXES, stop=lambda: next(asked)
    )
    names = [path.stem for path in edited.save(tmp_path / "b", metadata=False)]
    assert names == [f"target{n}-S1-L{layer}" for n in (1, 2) for layer in (12, 9)]
    assert not list((tmp_path / "b").glob("*.json"))


def test_what_cannot_be_is_said_before_anything_runs(session: EditSession) -> None:
    request = EditRequest(target_prompts=TARGETS)
    for axes in (Axes(start_steps=(1, STEPS)), Axes(start_layers=(9, 16))):
        with pytest.raises(ScheduleError):
            sweep_edit(session, request, axes, on_step=lambda _: pytest.fail("it ran"))
    with pytest.raises(ConfigError, match="mode='joint'"):
        sweep_edit(session, replace(request, mode="joint"), AXES)
    other = EditRequest(target_prompts=TARGETS, method="fixed-seed")
    with pytest.raises(ConfigError, match="belong to the method masactrl"):
        sweep_edit(session, other, AXES)
    with pytest.raises(ConfigError, match="accepted is 0 and more"):
        Axes(start_steps=(-1,))


def test_cells_warn_once(session: EditSession) -> None:
    long = EditRequest(target_prompts=("a dog " * 80,))
    with pytest.warns(ControlWarning) as caught:
        sweep_edit(session, long, Axes(start_steps=(1, 2)))
    assert len({str(one.message) for one in caught}) == len(caught)
