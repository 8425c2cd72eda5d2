"""One tab of the page: its controls, Run and Stop, and where the results go."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gradio as gr

from masactrl.app import fields, parts
from masactrl.app.fields import Field
from masactrl.app.looking import Looking
from masactrl.app.painting import backdrop, subject_over
from masactrl.app.requests import previewed
from masactrl.app.studio import Studio
from masactrl.app.visit import Made, Report, Stopped
from masactrl.app.watched import Watched
from masactrl.errors import ConfigError, MasaCtrlError, out_of_memory

__all__ = ["Runner", "draw_tab", "session_of"]

_DEVICE = "device"  # one job at a time: a controlled pipeline is mutable state

Runner = Callable[[str, Mapping[str, Any], Report], Made]


def draw_tab(
    studio: Studio,
    name: str,
    shown: Sequence[Field],
    runner: Runner,
    *,
    cost: Callable[..., str] | None = None,
    film: bool = False,
) -> dict[str, Any]:
    """Draw one tab: controls left, results right, with a player for films; return the controls."""
    controls: dict[str, Any] = {}
    steps = None if name == "grid" else studio.limits.preview_steps  # a grid's S is a list
    with gr.Row():
        with gr.Column(scale=2):
            for one in (one for one in shown if not one.fold):
                controls[one.name] = parts.draw(one)
            if cost is not None:
                told = gr.Markdown(cost(*(one.value for one in shown)))
            with gr.Row():
                run = gr.Button("Run", variant="primary", elem_id=f"{name}-run")
                if steps is not None:
                    quick = gr.Button(f"Preview ({steps} steps)", elem_id=f"{name}-preview")
                halt = gr.Button("Stop", variant="stop", elem_id=f"{name}-stop")
            if "seed" in controls:
                dice = gr.Button("Another seed", size="sm")
                dice.click(
                    _any_seed, outputs=controls["seed"], queue=False, api_visibility="private"
                )
            for group in dict.fromkeys(one.group for one in shown if one.fold):
                with gr.Accordion(group, open=False):
                    for one in (one for one in shown if one.fold and one.group == group):
                        controls[one.name] = parts.draw(one)
                    if group == fields.SUBJECT:
                        _follow_subject(studio, controls)
        with gr.Column(scale=3):
            results = [parts.player(name)] if film else []
            results += parts.pictures(name)
            looking = _looking(studio, name) if name in ("set", "edit") else None
            results += parts.keepsakes(name)
    ordered = [controls[one.name] for one in shown]
    names = tuple(one.name for one in shown)
    if cost is not None:
        gr.on(
            [one.change for one in ordered],
            cost,
            ordered,
            told,
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
    if {"steps", "start_step"} <= controls.keys():
        controls["steps"].input(
            _scaled_start(studio),
            controls["steps"],
            controls["start_step"],
            queue=False,
            api_visibility="private",
            show_progress="hidden",
        )
    ways = [(run, runner, name)]
    if steps is not None:
        ways.append((quick, _previewing(runner, steps, edit=name == "edit"), f"{name}_preview"))
    for button, running, public in ways:
        # First of all the click is noted, outside of the queue: Stop may come while the run waits.
        asked = button.click(_asker(studio), queue=False, api_visibility="private")
        made = asked.then(
            _handler(studio, running, names, len(results)),
            ordered,
            results,
            concurrency_id=_DEVICE,
            concurrency_limit=1,
            api_name=public,
        )
        if looking is not None:
            looking.after(made)
    halt.click(_stopper(studio), queue=False, api_visibility="private")
    return controls


def _previewing(runner: Runner, steps: int, *, edit: bool) -> Runner:
    """Return the runner of a quick run."""

    def run(session: str, values: Mapping[str, Any], report: Report) -> Made:
        return runner(session, previewed(values, steps, edit=edit), report)

    return run


def _looking(studio: Studio, name: str) -> Looking:
    """Draw what shows attention, below the results."""

    def watched(request: gr.Request) -> Watched | None:
        return studio.watched(session_of(request), name)

    return Looking(name, studio.limits.layers, watched)


def _follow_subject(studio: Studio, controls: Mapping[str, Any]) -> None:
    """Let the canvas show the picture, and the masks that are given lie over it."""
    picture, mask, painted = (controls[name] for name in ("picture", "mask", "painted"))
    over = gr.Image(
        label="The subject over the picture",
        format="png",
        interactive=False,
        visible=False,
        height=260,
        buttons=[],
        elem_id="edit-subject",
    )

    def shown(request: gr.Request, *given: Any) -> Any:
        studio.claim(session_of(request), *given)
        try:
            found = subject_over(*given)
        except ConfigError as error:
            raise parts.sentence(error, *given) from error
        value = None if found is None else studio.keep(session_of(request), found)
        return gr.Image(value=value, visible=found is not None)

    def behind(request: gr.Request, path: str | None) -> Any:
        studio.claim(session_of(request), path)
        value = _backdrop(path)
        if value is not None:
            value["background"] = studio.keep(session_of(request), value["background"])
        return value

    picture.change(behind, picture, painted, api_visibility="private", show_progress="hidden")
    gr.on(
        [picture.change, mask.change, painted.change, painted.input],
        shown,
        [picture, mask, painted],
        over,
        api_visibility="private",
        show_progress="hidden",
        trigger_mode="always_last",  # a stroke is told in parts
    )


def _backdrop(path: str | None) -> Any:
    try:
        return backdrop(path)
    except ConfigError as error:
        raise parts.sentence(error, path) from error


def _handler(
    studio: Studio, runner: Runner, names: Sequence[str], results: int = 7
) -> Callable[..., Any]:
    """Return the function behind Run: values in, results out, errors as sentences."""

    def run(request: gr.Request, progress: gr.Progress = gr.Progress(), *values: Any) -> Any:  # noqa: B008
        def report(done: int, total: int) -> None:
            progress((done, total), desc="Denoising", unit="steps")

        asked = dict(zip(names, values, strict=True))
        studio.claim(session_of(request), *values)
        try:
            made = runner(session_of(request), asked, report)
        except Stopped:
            gr.Info("Stopped; nothing was kept of the run at hand.")
            return [gr.skip()] * results
        except MasaCtrlError as error:
            raise parts.sentence(error, *asked.values()) from error
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            raise gr.Error(
                "There is no memory left for this; lower width and height, take a smaller picture, "
                "or ask for fewer targets at once.",
                print_exception=False,
            ) from error
        return parts.filled(made)

    return run


def _scaled_start(studio: Studio) -> Callable[[Any], int]:
    """Return the function that moves S along when steps change, to the same part of the run."""
    preset = studio.limits.preset

    def scaled(steps: Any) -> int:
        count = max(int(steps or 1), 1)
        return preset.start_step_of(count)

    return scaled


def _asker(studio: Studio) -> Callable[..., None]:
    def ask(request: gr.Request) -> None:
        studio.ask(session_of(request))

    return ask


def _stopper(studio: Studio) -> Callable[..., None]:
    def stop(request: gr.Request) -> None:
        studio.stop(session_of(request))

    return stop


def session_of(request: gr.Request) -> str:
    """Return the name of the visitor's session."""
    return str(request.session_hash)


def _any_seed() -> int:
    return random.randrange(fields.LARGEST_SEED)
