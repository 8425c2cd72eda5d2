"""The editors of PIE-Bench that this package brings: the published settings, and all others.

    pie-ddim+masactrl               DDIM inversion, source runs free        (published DDIM row)
    pie-directinversion+masactrl    the source is put back at every step    (published Direct row)
    pie-ddim+p2p                    the same two of Prompt-to-Prompt
    pie-directinversion+p2p
    INVERSION+METHOD                any inversion and any method by their names, such as
                                    direct+plug-and-play or virtual+unified
    nothing                         the source, unchanged
    prompt-only                     DDIM inversion, target prompt, no control

Published: SD1.4, 50 DDIM steps with offset 0, guidance 7.5. MasaCtrl: source prompt "" (not that of
the data), S = 4, L = 10. Prompt-to-Prompt: the data's source prompt, inverted without guidance and
denoised with it, refinement, tau_c = 0.4, tau_s = 0.6 in layers of up to 32x32; where an item names
blended words, a local blend (threshold 0.3, from 0.2 of the steps on) and the target's word twice
as strong. The model is the caller's; `published_scheduler` gives it the timesteps.

INVERSION+METHOD has the methods' own defaults, S = 4 and L = 10 for masactrl, the data set's source
prompt where a method or an inversion needs one, and "" elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from masactrl.bench.real_tasks import NEEDS_PROMPT
from masactrl.errors import ConfigError, PromptError
from masactrl.inversion import INVERSIONS
from masactrl.methods import METHODS, method_named
from masactrl.runs.inversion_request import draws_noise
from masactrl.runs.invert import EditRequest, InversionRequest, invert
from masactrl.runs.method_choice import aligns_words
from masactrl.settings.prompt_weights import literal
from masactrl.settings.shared import FROM_SOURCE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from masactrl.batch.pie_data import PieItem
    from masactrl.bench.pie_run import Editor
    from masactrl.models import LoadedModel

__all__ = ["PIE_EDITORS", "pie_editors", "published_scheduler"]

PIE_EDITORS = (
    "pie-ddim+masactrl",
    "pie-directinversion+masactrl",
    "pie-ddim+p2p",
    "pie-directinversion+p2p",
    "nothing",
    "prompt-only",
)
"""Editors with a name of their own; INVERSION+METHOD are more."""

STEPS, GUIDANCE, START_STEP, START_LAYER, SEED = 50, 7.5, 4, 10, 1234


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
        names: of `PIE_EDITORS`, or INVERSION+METHOD.
        steps: 50 in the published run.

    Raises:
        ConfigError: a name is unknown, or needs a model.
    """
    editors: dict[str, Editor] = {}
    for name in names:
        if name == "nothing":
            editors[name] = _unchanged
            continue
        settings = _settings(name)
        if model is None:
            raise ConfigError(f"{name} needs a model.")
        editors[name] = _PieEditor(model=model, steps=steps, **settings)
    return editors


def _unchanged(_item: PieItem, source: Image.Image) -> Image.Image:
    return source


def _settings(name: str) -> dict[str, Any]:
    """What the name of an editor says."""
    if name == "prompt-only":
        return {"inversion": "ddim", "method": "fixed-seed"}
    inversion, plus, method = name.partition("+")
    if name in PIE_EDITORS:
        ways = {"pie-ddim": "ddim", "pie-directinversion": "direct"}
        named = {"p2p": "prompt-to-prompt"}.get(method, method)
        return {"inversion": ways[inversion], "method": named, "published": True}
    if not plus or inversion not in INVERSIONS or method not in METHODS:
        raise ConfigError(
            f"There is no editor {name!r}; accepted are {', '.join(PIE_EDITORS)}, and "
            f"INVERSION+METHOD of the inversions {', '.join(INVERSIONS)} and the methods "
            f"{', '.join(METHODS)}."
        )
    return {"inversion": inversion, "method": method}


@dataclass(frozen=True, slots=True, kw_only=True)
class _PieEditor:
    model: LoadedModel
    steps: int
    inversion: str
    method: str
    published: bool = False

    def __call__(self, item: PieItem, source: Image.Image) -> Image.Image:
        """Invert the source and edit it."""
        request = self._request(item)
        session = invert(self.model, source, self._inversion(item), edit=request)
        if self.published and self.method == "prompt-to-prompt":
            # The published run inverts without guidance and denoises its source with it.
            guided = replace(session.trajectory, guidance=GUIDANCE)
            session = replace(session, trajectory=guided)
        return session.edit(request).targets[0].controlled

    def _inversion(self, item: PieItem) -> InversionRequest:
        aligned = self.method != "masactrl" and aligns_words(method_named(self.method))
        worded = aligned or self.inversion in NEEDS_PROMPT
        return InversionRequest(
            method=self.inversion,
            source_prompt=literal(item.source_prompt) if worded else "",
            steps=self.steps,
            guidance_scale=GUIDANCE if self.inversion == "null-text" else None,
            seed=SEED if draws_noise(self.inversion) else None,
        )

    def _request(self, item: PieItem) -> EditRequest:
        own: dict[str, Any] = {}
        if self.method == "masactrl":
            own = {"start_step": START_STEP, "start_layer": START_LAYER, "mode": "joint"}
        elif self.method in FROM_SOURCE:
            own = {"seed": SEED}
        elif self.published:
            own = {"method_options": _published_p2p(item)}
        return EditRequest(
            target_prompts=(literal(item.target_prompt),),
            guidance_scale=GUIDANCE,
            compare=False,
            method=self.method,
            **own,
        )


def _published_p2p(item: PieItem) -> Mapping[str, Any]:
    options: dict[str, Any] = {"cross": 0.4, "self_attention": 0.6, "self_tokens": 32 * 32}
    if len(item.blended_word) == 1:
        raise PromptError(
            f"The item names one blended word, {item.blended_word[0]!r}; a local blend needs one "
            "of the source and one of the target."
        )
    if item.blended_word:
        of_source, of_target = item.blended_word[:2]
        options["blend"] = {"source": (of_source,), "target": (of_target,), "begin": 0.2}
        options["reweight"] = ((of_target, 2.0),)
    return options
