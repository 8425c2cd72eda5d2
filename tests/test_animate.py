"""Animations: a frame for every pose, agreeing with one source, in files and again."""

from __future__ import annotations

import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from PIL import Image

from masactrl import EditRequest, GenerateRequest, InversionRequest, generate, invert
from masactrl.attention import Rows, Schedule, SourceFeatures
from masactrl.cli import main
from masactrl.diffusion import denoise
from masactrl.errors import ConfigError, MissingExtra, OutputError
from masactrl.layouts.attach import attach_layouts
from masactrl.methods import MasaCtrl
from masactrl.models import LoadedModel, default_preset
from masactrl.models.denoiser import Denoiser
from masactrl.models.guided import Guided
from masactrl.pictures.images import tensor_to_image
from masactrl.puppets.gaits import GAITS, gait_scenes, gait_skeleton
from masactrl.puppets.renderer import keypoints_of
from masactrl.rerun.animate import animate_words
from masactrl.rerun.kinds import RerunInputs, rerun_recipe
from masactrl.runs.batch import source_condition, target_conditions
from masactrl.runs.layout import Layout, PicturesWhenWanted, guides_of
from masactrl.runs.motion import GAIT_NAMES, MotionWords
from masactrl.studies.animate import animate, animation_run, frame_name
from masactrl.studies.animate_files import Film, film, write_film


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, str]:
    """A tiny model and the folder of a ControlNet of its family."""
    folder = tmp_path_factory.mktemp("net")
    tiny_models.sd_controlnet().controlnet.save_pretrained(folder)
    model = LoadedModel(
        pipeline=tiny_models.sd(),
        name="tiny",
        family="sd",
        preset=default_preset("sd", height=64, width=64),
    )
    return model, str(folder)


def pictures(count: int) -> tuple[Image.Image, ...]:
    drawn = np.random.default_rng(0).integers(0, 255, (count, 64, 64, 3), dtype=np.uint8)
    return tuple(Image.fromarray(one) for one in drawn)


REQUEST = GenerateRequest(
    source_prompt="a cat standing",
    target_prompts=("a cat running",),
    steps=3,
    start_step=1,
    start_layer=10,
)


def moved(tiny: tuple[LoadedModel, str], count: int = 5, **options: Any) -> Any:
    model, network = tiny
    poses = Layout(kind="x", pictures=pictures(count), model=network)
    return animate(model, REQUEST, poses, **{"batch": 2, **options})


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture).astype(int)


def test_a_frame_is_what_generate_makes_of_its_pose(tiny: tuple[LoadedModel, str]) -> None:
    model, network = tiny
    result = moved(tiny)
    assert len(result.frames) == 5
    for pose, frame in zip(pictures(5), result.frames, strict=True):
        request = GenerateRequest(
            source_prompt="a cat standing",
            target_prompts=("a cat running",),
            steps=3,
            start_step=1,
            start_layer=10,
            layouts=(Layout(kind="x", pictures=(pose,), model=network),),
        )
        one = generate(model, request)
        assert np.abs(pixels(one.source) - pixels(result.source)).max() <= 2
        # Rounding of another batch, through a tiny and rough network.
        assert np.abs(pixels(one.targets[0].controlled) - pixels(frame)).mean() < 0.5
    different = {frame.tobytes() for frame in result.frames}
    assert len(different) == 5


def test_batches_are_made_alone_and_a_run_may_stop(tiny: tuple[LoadedModel, str]) -> None:
    whole = moved(tiny)
    middle = moved(tiny, only=[1])
    assert [f.tobytes() for f in middle.frames] == [f.tobytes() for f in whole.frames[2:4]]
    stopped = moved(tiny, stop=lambda: True)
    assert [f.tobytes() for f in stopped.frames] == [f.tobytes() for f in whole.frames[:2]]
    told: list[int] = []
    moved(tiny, on_step=lambda record: told.append(record.step))
    assert told == [0, 1, 2] * 4  # the source, and three batches


def filmed(tiny: tuple[LoadedModel, str], folder: Path, count: int = 3, **options: Any) -> Film:
    """Draw an animation into a folder, `drawn` told of every batch that is really drawn."""
    model, network = tiny
    poses = Layout(kind="x", pictures=pictures(count), model=network)
    own = {name: options.pop(name) for name in ("first_frame",) if name in options}
    run = animation_run(model, REQUEST, poses, fps=8, batch=2, words="walk", **own)
    drawn, draw = options.pop("drawn", []), run.frames.draw

    def told(numbers: range) -> tuple[Image.Image, ...]:
        drawn.append(list(numbers))
        return draw(numbers)

    run.frames.draw = told  # type: ignore[method-assign]
    return film(run, folder, **options)


def test_frames_are_there_as_they_are_made_and_a_second_run_goes_on(
    tiny: tuple[LoadedModel, str], tmp_path: Path
) -> None:
    whole = filmed(tiny, tmp_path / "whole", 5)
    assert (whole.frames, whole.kept) == (5, 0)
    out, counts = tmp_path / "out", list[int]()

    class Crash(Exception):
        pass

    def crash(done: int) -> None:
        counts.append(done)
        if done == 2:
            raise Crash

    with pytest.raises(Crash):
        filmed(tiny, out, 5, on_frames=crash)
    assert sorted(path.name for path in out.glob("frame*")) == ["frame0001.png", "frame0002.png"]
    drawn: list[list[int]] = []
    stopped = filmed(tiny, out, 5, drawn=drawn, stop=lambda: bool(drawn))
    assert (stopped.frames, stopped.kept, drawn) == (4, 2, [[2, 3]])
    assert len(stopped.films) == 1
    last = filmed(tiny, out, 5, drawn=drawn, films=("webp",))
    assert (last.frames, last.kept, drawn[1:]) == (5, 4, [[4]])
    again = filmed(tiny, out, 5, drawn=drawn)
    assert (again.kept, len(drawn)) == (5, 2)
    for one, other in zip(whole.paths, again.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_memory_holds_one_batch_of_frames_and_poses(
    tiny: tuple[LoadedModel, str], tmp_path: Path
) -> None:
    alive, most = list[weakref.ref[Image.Image]](), list[int]()

    def count() -> None:
        most.append(sum(one() is not None for one in alive))

    def made(number: int) -> Image.Image:
        picture = pictures(8)[number].copy()
        alive.append(weakref.ref(picture))
        count()
        return picture

    class Drawn:
        def source(self) -> Image.Image:
            return made(0)

        def draw(self, numbers: range) -> tuple[Image.Image, ...]:
            return tuple(poses.pictures[number] for number in numbers)

    poses = Layout(kind="x", pictures=PicturesWhenWanted(8, made), model=tiny[1])
    run = replace(animation_run(tiny[0], REQUEST, poses, fps=8, batch=2), frames=Drawn())
    most.clear()
    film(run, tmp_path, films=("webp",), on_frames=lambda _: count())
    # A batch, and the one before it until its name is given to the next.
    assert max(most) <= 4


def test_what_is_of_another_run_is_not_taken_for_this_one(
    tiny: tuple[LoadedModel, str], tmp_path: Path
) -> None:
    filmed(tiny, tmp_path)
    with pytest.raises(OutputError, match=r"frame0001\.png"):
        filmed(tiny, tmp_path, 5)  # more poses, so other frames
    drawn: list[list[int]] = []
    (tmp_path / "frame0002.png").write_bytes(b"half a")
    with pytest.raises(OutputError, match=r"holds frame0002\.png"):
        filmed(tiny, tmp_path)
    assert filmed(tiny, tmp_path, overwrite=True, drawn=drawn).kept == 0
    assert drawn == [[0, 1], [2]]
    other = tmp_path / "other"
    filmed(tiny, other, metadata=False)
    with pytest.raises(OutputError, match=r"holds source\.png"):
        filmed(tiny, other, metadata=False)


def test_films_and_a_sheet(tiny: tuple[LoadedModel, str], tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    made = filmed(tiny, tmp_path, films=("gif", "webp", "mp4"), sheet=True)
    assert [path.name for path in made.films] == [f"animation.{k}" for k in ("gif", "webp", "mp4")]
    assert (tmp_path / "animation.png").is_file()
    with Image.open(tmp_path / "animation.gif") as gif:
        assert (gif.n_frames, gif.info["duration"]) == (3, 120)  # hundredths of a second
        told = [json.loads(gif.info["comment"])]
    with Image.open(tmp_path / "animation.webp") as webp:
        assert webp.n_frames == 3
        told.append(json.loads(webp.getexif()[0x010E]))
    with av.open(str(tmp_path / "animation.mp4")) as shown:
        stream = shown.streams.video[0]
        assert (stream.width, stream.height, float(stream.average_rate)) == (64, 64, 8.0)
        assert sum(1 for _ in shown.decode(stream)) == 3
        told.append(json.loads(shown.metadata["comment"]))
    for one in told:
        assert (one["kind"], one["picture"]) == ("animate", "animation")
    with pytest.raises(ConfigError, match="'avi' is no film"):
        filmed(tiny, tmp_path, films=("avi",))


def test_frames_may_read_the_first_one_too(tiny: tuple[LoadedModel, str]) -> None:
    plain, both = moved(tiny), moved(tiny, first_frame=True)
    assert np.abs(pixels(plain.source) - pixels(both.source)).max() <= 2
    # The first reads the source alone, as without; rounding of another batch apart.
    assert np.abs(pixels(plain.frames[0]) - pixels(both.frames[0])).mean() < 0.5
    for one, other in zip(plain.frames[1:], both.frames[1:], strict=True):
        assert np.abs(pixels(one) - pixels(other)).mean() > 0.5
    middle = moved(tiny, first_frame=True, only=[1])
    assert [f.tobytes() for f in middle.frames] == [f.tobytes() for f in both.frames[2:4]]


def test_files_recipes_and_a_frame_again(tiny: tuple[LoadedModel, str], tmp_path: Path) -> None:
    model, network = tiny
    folder = tmp_path / "poses"
    folder.mkdir()
    for number, picture in enumerate(pictures(3)):
        picture.save(folder / f"{number}.png")
    words = MotionWords(poses=str(folder), kind="x", layout_model=(f"x={network}",), batch=2)
    poses = words.layout("a cat", 64)
    run = animation_run(model, REQUEST, poses, fps=8, batch=2, first_frame=True, words=words.poses)
    film(run, tmp_path / "out")
    made = Image.open(tmp_path / "out" / "frame0003.png")
    recipe = run.recipe("frame0003")
    assert json.loads(made.info["masactrl"]) == json.loads(json.dumps(recipe.to_json()))
    inputs = tuple(sorted(folder.iterdir()))
    networks = {"x": network}
    again = rerun_recipe(model, recipe, RerunInputs(inputs=inputs, networks=networks))
    assert again.tobytes() == made.convert("RGB").tobytes()
    line = animate_words(recipe)
    assert line[:2] == ["animate", "a cat standing"]
    for part in ("--poses", "--layout-model", "--fps", "--batch", "--first-frame"):
        assert part in line
    with pytest.raises(ConfigError, match="from 3 poses"):
        rerun_recipe(model, recipe, RerunInputs(inputs=inputs[:2], networks=networks))
    assert str(tmp_path) not in str(recipe.to_json())
    with pytest.raises(ConfigError, match="no --kind edges was given"):
        MotionWords(poses=str(folder), layout_model=("edges=x",)).layout("a cat", 64)


def test_a_film_gives_the_poses_and_a_frame_comes_again(
    tiny: tuple[LoadedModel, str], tmp_path: Path
) -> None:
    pytest.importorskip("av")
    model, network = tiny
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(files):
        gait_skeleton("run", 4, number, species="cat", facing="left", size=64).save(path)
    shown = write_film(tmp_path / "poses.mp4", files, 8.0)
    words = MotionWords(poses=str(shown), kind="x", layout_model=(f"x={network}",), batch=2)
    poses = words.layout("a cat", 64)
    assert len(poses.pictures) == 4
    for number in (0, 3, 1, 2):  # backwards, too
        with Image.open(files[number]) as drawn:
            near = np.abs(pixels(poses.pictures[number]) - pixels(drawn.convert("RGB"))).mean()
        assert near < 8
    run = animation_run(model, REQUEST, poses, fps=8, batch=2, words=words.poses)
    film(run, tmp_path / "out")
    recipe, networks = run.recipe("frame0004"), {"x": network}
    assert [one.name for one in recipe.inputs] == ["poses.mp4"]
    again = rerun_recipe(model, recipe, RerunInputs(inputs=(shown,), networks=networks))
    with Image.open(tmp_path / "out" / "frame0004.png") as made:
        assert again.tobytes() == made.convert("RGB").tobytes()
    other = write_film(tmp_path / "short.mp4", files[:2], 8.0)
    with pytest.raises(ConfigError, match="a film of 4 frames"):
        rerun_recipe(model, recipe, RerunInputs(inputs=(other,), networks=networks))
    with pytest.raises(ConfigError, match="has one frame"):
        MotionWords(poses=str(write_film(tmp_path / "one.mp4", files[:1], 8.0))).layout("a cat", 64)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no film")
    with pytest.raises(ConfigError, match="cannot be read"):
        MotionWords(poses=str(damaged)).layout("a cat", 64)


def test_a_picture_is_inverted_and_moves(
    tiny: tuple[LoadedModel, str],
    tmp_path: Path,
    model_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pictures(1)[0].save(tmp_path / "photo.png")
    (tmp_path / "poses").mkdir()
    for number, picture in enumerate(pictures(3)):
        picture.save(tmp_path / "poses" / f"{number}.png")
    own = ["--model", str(model_folder), "--layout-model", f"x={tiny[1]}"]
    words = [
        *("animate", str(tmp_path / "photo.png"), "--to", "a cat running", "--kind", "x"),
        *("--poses", str(tmp_path / "poses"), "--steps", "3", "--batch", "2", *own),
    ]
    assert main([*words, "-o", str(tmp_path / "out"), "--film", "gif"]) == 0
    made = tmp_path / "out" / "frame0003.png"
    inputs = [tmp_path / "photo.png", *sorted((tmp_path / "poses").iterdir())]
    given = [word for path in inputs for word in ("--input", str(path))]
    capsys.readouterr()
    assert main(["rerun", str(made), *own, *given]) == 0
    assert "same to the bit" in capsys.readouterr().out
    assert main(["info", str(made), "--cli"]) == 0
    assert "masactrl animate photo.png --to 'a cat running'" in capsys.readouterr().out
    both = [*words, "-o", str(tmp_path / "both"), "--film", "gif", "--first-frame"]
    assert main(both) == 0
    made = tmp_path / "both" / "frame0003.png"
    assert made.read_bytes() != (tmp_path / "out" / "frame0003.png").read_bytes()
    capsys.readouterr()
    assert main(["rerun", str(made), *own, *given]) == 0
    assert "same to the bit" in capsys.readouterr().out
    assert main(["info", str(made), "--cli"]) == 0
    assert "--first-frame" in capsys.readouterr().out


def test_frames_of_a_picture_read_the_first_one_as_in_one_batch(
    tiny: tuple[LoadedModel, str],
) -> None:
    """Recorded, frame by frame, is what source, first and third frame make side by side."""
    model, network = tiny
    poses = Layout(kind="x", pictures=pictures(3), model=network)
    request = EditRequest(
        target_prompts=("a cat running",),
        start_step=1,
        start_layer=10,
        guidance_scale=4.0,
        mode="cached",
    )
    session = invert(model, pictures(1)[0], InversionRequest(steps=3))
    plain = animate(session, request, poses, batch=2)
    both = animate(session, request, poses, batch=2, first_frame=True)
    assert both.frames[0].tobytes() == animate(session, request, poses, batch=1).frames[0].tobytes()
    for one, other in zip(plain.frames[1:], both.frames[1:], strict=True):
        assert np.abs(pixels(one) - pixels(other)).mean() > 0.5
    again = animate(session, request, poses, batch=2, first_frame=True, only=[1])
    assert again.frames[0].tobytes() == both.frames[2].tobytes()

    trajectory, pipeline = session.trajectory, model.pipeline
    denoiser, path = Denoiser(pipeline), trajectory.latents
    asked = replace(request, target_prompts=("a cat running",) * 2, compare=False)
    conditions = [
        source_condition(denoiser, trajectory, guided_targets=True),
        *target_conditions(denoiser, trajectory, asked.resolve(model.preset, 3)),
    ]
    guides = guides_of(model, [poses], size=(64, 64), images=[0, 1, 3], targets=3)
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10))
    with (
        torch.no_grad(),
        denoiser.timetable(trajectory.schedule),
        attach_layouts(pipeline, guides, images=3),
        control.attach(pipeline, Rows(images=3, reads=((0,), (0,), (0, 1)))),
    ):
        z = denoise(
            Guided(denoiser, conditions, trajectory.schedule),
            path[0].repeat(3, 1, 1, 1),
            trajectory.schedule,
            walk=trajectory.walk,
            noise=trajectory.noise,
            path=path,
        )
    for frame, latent in ((both.frames[0], z[1:2]), (both.frames[2], z[2:3])):
        joint = session.framing.leave(tensor_to_image(denoiser.decode_image(latent)[0]))
        # Rounding of another batch, through a tiny and rough network.
        assert np.abs(pixels(joint) - pixels(frame)).mean() < 0.5


def test_what_cannot_be_read_beside_a_picture_is_said(tiny: tuple[LoadedModel, str]) -> None:
    session = invert(tiny[0], pictures(1)[0], InversionRequest(steps=3))
    request = EditRequest(target_prompts=("a cat",), start_step=1, start_layer=10)
    with pytest.raises(ConfigError, match="compare=False"):
        session.edit(request, record=SourceFeatures())
    with pytest.raises(ConfigError, match="mode ahead or cached"):
        session.edit(replace(request, mode="joint"), beside=SourceFeatures())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"target_prompts": ("a", "b")}, "one target prompt"),
        ({"method": "fixed-seed", "start_step": None, "start_layer": None}, "by masactrl"),
    ],
)
def test_other_requests_are_refused(
    tiny: tuple[LoadedModel, str], change: dict[str, Any], says: str
) -> None:
    poses = Layout(kind="x", pictures=pictures(2), model=tiny[1])
    with pytest.raises(ConfigError, match=says):
        animate(tiny[0], replace(REQUEST, **change), poses)


def test_numbers_are_checked(tiny: tuple[LoadedModel, str]) -> None:
    with pytest.raises(ConfigError, match="above 0 to 120"):
        moved(tiny, fps=0.0)
    with pytest.raises(ConfigError, match="1 and more"):
        moved(tiny, batch=0)


def test_without_pyav_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtra, match=r"masactrl\[video\]"):
        write_film(tmp_path / "a.mp4", [], 12)


def test_gaits_move_without_jumps_and_cycles_close() -> None:
    assert GAITS == GAIT_NAMES
    for gait in GAITS:
        scenes = gait_scenes(gait, 25, species="dog", facing="left")
        joints = keypoints_of(scenes, 256)
        steps = joints.diff(dim=0).norm(dim=-1)
        assert steps.max() < 0.1 * 256, gait
        assert steps.max() > 2
        if gait in ("walk", "run"):
            ahead = (joints[0] - joints[-1]).norm(dim=-1)
            assert ahead.max() < 1.5 * steps.max()
        if gait == "jump":
            assert (joints[0] - joints[-1]).norm(dim=-1).max() < 0.1
    drawn = gait_skeleton("sit", 3, 2, species="cat", facing="right", size=64)
    assert drawn.size == (64, 64)
    with pytest.raises(ConfigError, match="no gait"):
        gait_scenes("fly", 4, species="cat", facing="left")
    with pytest.raises(ConfigError, match="at least 2"):
        gait_scenes("walk", 1, species="cat", facing="left")


def test_words_of_motion_are_checked(tmp_path: Path) -> None:
    layout = MotionWords(poses="jump", frames=4, layout_until=0.5).layout("a fox, facing right", 64)
    assert (layout.kind, len(layout.pictures), layout.end) == ("pose", 4, 0.5)
    assert layout.pictures[0].size == (64, 64)
    with pytest.raises(ConfigError, match="names none"):
        MotionWords().layout("something", 64)
    with pytest.raises(ConfigError, match="no gait"):
        MotionWords(poses="fly").layout("a cat", 64)
    with pytest.raises(ConfigError, match="holds 0 pictures"):
        MotionWords(poses=str(tmp_path)).layout("a cat", 64)
    with pytest.raises(ConfigError, match="accepted is 2 to 1000"):
        MotionWords(frames=1)


def test_the_command_makes_frames_of_the_embedded_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("animate", "a cat standing in the snow, facing left"),
        *("--to", "a cat in the snow, facing left", "--poses", "jump", "--frames", "3"),
        *("--steps", "2", "--batch", "3", "-o", str(tmp_path), "--json"),
    ]
    assert main(words) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["frames"] == 3
    assert (tmp_path / "animation.gif").is_file()
    assert main(["rerun", str(tmp_path / f"{frame_name(2)}.png")]) == 0
    assert "same to the bit" in capsys.readouterr().out
    assert main(["info", str(tmp_path / "frame0001.png"), "--cli"]) == 0
    assert "--poses jump" in capsys.readouterr().out


def test_an_mp4_that_cannot_be_written_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "av", None)
    words = [
        *("animate", "a cat standing", "--to", "a cat running", "--poses", "walk"),
        *("--frames", "2", "--steps", "1", "-o", str(tmp_path)),
    ]
    assert main(words) == 0
    assert "needs the extra 'video'" in capsys.readouterr().err
    assert not (tmp_path / "animation.mp4").exists()
    assert main([*words[:-1], str(tmp_path / "other"), "--film", "mp4"]) == 1
    assert not (tmp_path / "other").exists()
