"""Fields of layouts, those of the tab "Animate", and the layouts that their values say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masactrl.app import fields
from masactrl.app.fields import Field, Limits, declared_field, inversion_field
from masactrl.runs.layout import LayoutWords, layout_of_files
from masactrl.runs.motion import GAIT_NAMES, MotionWords, layout_of_frames

if TYPE_CHECKING:
    from masactrl.runs.layout import Layout

__all__ = ["LAYOUT", "OWN_POSES", "animate_fields", "layout_fields", "layouts_in", "poses_in"]

LAYOUT = "Layout: say where things go"
"""The fold of layouts."""

OWN_POSES = "my pictures"
"""The choice of poses that are uploaded."""


def layout_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of a layout for all targets; none where no network reads any."""
    if not limits.networks:
        return ()
    picture = Field(
        name="layout",
        label="A layout for all targets",
        info="What the network reads.",
        widget="picture",
        group=LAYOUT,
    )
    return (picture, *_network_fields(limits))


def _network_fields(limits: Limits) -> tuple[Field, ...]:
    kinds = tuple(limits.networks)
    return (
        Field(
            name="layout_kind",
            label="What the picture is",
            info="Kinds for which the studio has a ControlNet or T2I-Adapter.",
            widget="choice",
            value=kinds[0],
            choices=kinds,
            group=LAYOUT,
        ),
        declared_field(LayoutWords, "layout_scale", group=LAYOUT, high=2, step=0.05),
        declared_field(
            LayoutWords, "layout_until", group=LAYOUT, widget="slider", low=0.05, step=0.05
        ),
    )


def animate_fields(limits: Limits) -> tuple[Field, ...]:
    """Return the fields of the tab "Animate"; none where no network reads poses."""
    if not limits.networks:
        return ()
    return (
        fields.source_field("a cat standing in the meadow, facing left"),
        Field(
            name="photo",
            label="Or a picture of your own",
            info="The prompt above may then be empty.",
            widget="picture",
            fold=False,
        ),
        Field(
            name="target_prompt",
            label="What every frame shows",
            info="Each in a pose of its own.",
            widget="text",
            value="a cat running in the meadow, facing left",
            fold=False,
        ),
        declared_field(
            MotionWords,
            "poses",
            info="A gait of the embedded world, for the animal that the prompt names; or your own "
            "pictures, below.",
            widget="choice",
            choices=(*GAIT_NAMES, OWN_POSES),
            value="run",
            fold=False,
        ),
        declared_field(MotionWords, "frames", info="Of a gait.", value=8, high=120, fold=False),
        fields.SEED,
        Field(
            name="pictures",
            label="My pictures of poses, one a frame in the order of their names",
            info="",
            widget="files",
            group=LAYOUT,
        ),
        *_network_fields(limits),
        inversion_field("How a picture of your own is traced back to noise."),
        declared_field(MotionWords, "fps"),
        declared_field(MotionWords, "first_frame"),
        *fields.run_fields(limits),
        *fields.control_fields(limits),
        *fields.picture_fields(limits),
    )


def layouts_in(asked: dict[str, Any], networks: Mapping[str, str | None]) -> tuple[Layout, ...]:
    """Take a tab's layout out of its values and return it; nothing where there is no picture.

    Raises:
        ConfigError: it cannot be read, or a number is out of its range.
    """
    picture, words = asked.pop("layout", None), _words(asked)
    if not picture:
        return ()
    kind = words.pop("kind")
    made = layout_of_files(kind, [Path(picture)], networks.get(kind))
    return (replace(made, **words),)


def poses_in(
    asked: dict[str, Any], networks: Mapping[str, str | None], size: int
) -> tuple[Layout, MotionWords]:
    """Take the poses of the tab "Animate" out of its values; return them, and what is said of them.

    Raises:
        ConfigError: a picture cannot be read, the prompt names no animal, or a number is out of
            its range.
    """
    pictures: Sequence[str] = asked.pop("pictures") or ()
    words, poses = _words(asked), asked.pop("poses")
    kind = words.pop("kind")
    own = {name: asked.pop(name) for name in ("frames", "fps", "first_frame")}
    gait = poses in GAIT_NAMES
    motion = MotionWords(poses=poses if gait else "poses", kind=kind, **own)
    prompt = asked["target_prompts"][0]
    if gait:
        kind, made = "pose", motion.layout(prompt, size)
    else:
        files = sorted(map(Path, pictures), key=lambda path: path.name)
        made = layout_of_frames(kind, files)
    return replace(made, model=networks.get(kind), **words), motion


def _words(asked: dict[str, Any]) -> dict[str, Any]:
    names = {"kind": "layout_kind", "scale": "layout_scale", "end": "layout_until"}
    return {mine: asked.pop(name) for mine, name in names.items() if name in asked}
