"""The editors of PIE-Bench that this package brings, the published settings among them.

    pie-ddim+masactrl               DDIM inversion, source runs free        (published DDIM row)
    pie-directinversion+masactrl    the source is put back at every step    (published Direct row)
    nothing                         the source, unchanged
    prompt-only                     DDIM inversion, target prompt, no control

Published: SD1.4, 50 DDIM steps with offset 0, source prompt "" (not the data set's), guidance 7.5,
S = 4, L = 10. The model is the caller's; `published_scheduler` gives it the timesteps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from masactrl.errors import ConfigError, MasaCtrlError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image

    from masactrl.bench.pie_data import PieItem
    from masactrl.bench.pie_run import Editor
    from masactrl.models import LoadedModel

__all__ = ["PIE_EDITORS", "pie_editors", "published_scheduler"]

PIE_EDITORS = (
    "pie-ddim+masactrl",
    "pie-directinversion+masactrl",
    "nothing",
    "prompt-only",
)

STEPS, GUIDANCE, START_STEP, START_LAYER = 50, 7.5, 4, 10


def published_scheduler(scheduler: Any) -> Any:
    """DDIM as the published run has it: timesteps 980, 960 .. 0, last alpha that of t = 0."""
    from diffusers import DDIMScheduler

    return DDIMScheduler.from_config(
        scheduler.config, steps_offset=0, set_alpha_to_one=False, clip_sample=False
    )


def pie_editors(
    model: LoadedModel | None, names: Sequence[str], *, steps: int = STEPS
) -> dict[str, Editor]:
    """The editors of these names.

    Args:
        model: any Stable Diffusion; None is enough for "nothing".
        names: of `PIE_EDITORS`.
        steps: 50 in the published run.

    Raises:
        ConfigError: a name is unknown, or needs a model.
    """
    editors: dict[str, Editor] = {}
    for name in names:
        if name not in PIE_EDITORS:
            raise ConfigError(
                f"There is no editor {name!r}; accepted are {', '.join(PIE_EDITORS)}."
            )
        if name == "nothing":
            editors[name] = lambda _item, source: source
            continue
        if model is None:
            raise ConfigError(f"{name} needs a model.")
        editors[name] = _masactrl(model, name, steps)
    return editors


def _masactrl(model: LoadedModel, name: str, steps: int) -> Editor:
    from masactrl.edit import EditRequest, InversionRequest, invert

    direct = name.startswith("pie-directinversion")
    inversion = InversionRequest(
        method="direct" if direct else "ddim", prompt="", steps=steps, replay=direct
    )
    plain = name == "prompt-only"

    def edit(item: PieItem, source: Image.Image) -> Image.Image:
        session = invert(model, source, inversion)
        request = EditRequest(
            target_prompts=(item.target_prompt,),
            guidance_scale=GUIDANCE,
            start_step=START_STEP,
            start_layer=START_LAYER,
            compare=plain,
            mode="joint",
        )
        target = session.edit(request).targets[0]
        picture = target.uncontrolled if plain else target.controlled
        if picture is None:
            raise MasaCtrlError("the edit gave no picture")
        return picture

    return edit
