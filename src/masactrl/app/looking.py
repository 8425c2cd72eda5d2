"""Under the results of a tab: click a point of a target, see where in the source it looked."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from masactrl.app.watched import Watched
from masactrl.errors import ConfigError

__all__ = ["Looking"]

_ALL = "all"
_HINT = (
    "Click a point of the picture to see where in the source it looked: bright is where the "
    "weights of attention are large, the mean over all heads. Coarse layers see the subject, "
    "fine ones its parts."
)


class Looking:
    """The part of a tab that shows attention.

    Args:
        name: of the tab.
        layers: how many self-attention layers the model has.
        watched: returns the visitor's last watched run of this tab, or None.
    """

    def __init__(
        self, name: str, layers: int, watched: Callable[[gr.Request], Watched | None]
    ) -> None:
        self._watched = watched
        self._layers = layers
        with gr.Accordion(
            "Where did it look?", open=True, visible=False, elem_id=f"{name}-looking"
        ) as self._fold:
            gr.Markdown(_HINT)
            with gr.Row():
                self._target = gr.Dropdown(
                    label="Target", info="of this run", choices=[], min_width=120
                )
                self._layer = gr.Dropdown(label="Layer", choices=[_ALL], value=_ALL, min_width=120)
                self._step = gr.Dropdown(label="Step", choices=[_ALL], value=_ALL, min_width=120)
            self._picture = gr.Image(
                label="The target: click a point",
                show_label=False,  # it would hide a corner that cannot be clicked then
                format="png",
                type="filepath",
                interactive=False,
                buttons=[],
                height=400,
                elem_id=f"{name}-click",
            )
            self._figure = gr.Image(
                label="Where it looked",
                show_label=False,
                format="png",
                type="filepath",
                interactive=False,
                buttons=["download", "fullscreen"],
                visible=False,
                elem_id=f"{name}-attention",
            )
        self._point = gr.State(None)
        asked = [self._point, self._target, self._layer, self._step]
        self._picture.select(
            self._click, asked[1:], [self._point, self._figure], api_visibility="private"
        )
        self._target.input(
            self._turn, self._target, [self._picture, self._point, self._figure],
            api_visibility="private",
        )  # fmt: skip
        gr.on(
            [self._layer.input, self._step.input],
            self._again,
            asked,
            self._figure,
            api_visibility="private",
        )

    def after(self, run: Any) -> None:
        """Show the targets of a run when it is through; `run` is its event."""
        outputs = [self._fold, self._target, self._layer, self._step, self._picture]
        run.success(
            self._show,
            None,
            [*outputs, self._point, self._figure],
            api_visibility="private",
            show_progress="hidden",
        )

    def _show(self, request: gr.Request) -> list[Any]:
        found = self._watched(request)
        if found is None:
            return [gr.Accordion(visible=False), *[gr.skip()] * 4, None, gr.Image(visible=False)]
        names = found.targets()
        return [
            gr.Accordion(visible=True),
            gr.Dropdown(choices=list(names), value=names[0], interactive=len(names) > 1),
            gr.Dropdown(
                choices=[_ALL, *map(str, found.view.layers)],
                value=_ALL,
                info=f"controlled, of 0 to {self._layers - 1}",
            ),
            gr.Dropdown(
                choices=[_ALL, *map(str, found.view.steps)], value=_ALL, info="controlled, kept"
            ),
            str(found.clickable(0)),
            None,
            gr.Image(value=None, visible=False),
        ]

    def _click(
        self, target: str, layer: str, step: str, event: gr.SelectData, request: gr.Request
    ) -> list[Any]:
        x, y = event.index
        point = (int(x), int(y))
        return [point, self._drawn(point, target, layer, step, request)]

    def _turn(self, target: str, request: gr.Request) -> list[Any]:
        found = self._run(request)
        place = found.targets().index(target)
        return [str(found.clickable(place)), None, gr.Image(value=None, visible=False)]

    def _again(self, point: Any, target: str, layer: str, step: str, request: gr.Request) -> Any:
        return gr.skip() if point is None else self._drawn(point, target, layer, step, request)

    def _drawn(self, point: Any, target: str, layer: str, step: str, request: gr.Request) -> Any:
        found = self._run(request)
        try:
            path = found.figure(
                (int(point[0]), int(point[1])),
                target=found.targets().index(target),
                step=None if step == _ALL else int(step),
                layer=None if layer == _ALL else int(layer),
            )
        except ConfigError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return gr.Image(value=str(path), visible=True)

    def _run(self, request: gr.Request) -> Watched:
        found = self._watched(request)
        if found is None:
            raise gr.Error("The pictures are gone; run again.", print_exception=False)
        return found
