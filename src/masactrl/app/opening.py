"""What the fields of a tab show for a recipe; what they cannot show is said. Nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, get_args

from masactrl.app.layout_fields import OWN_POSES
from masactrl.app.requests import shown_values
from masactrl.errors import ConfigError
from masactrl.rerun.animate import plain_animation
from masactrl.rerun.attention import watched_run
from masactrl.rerun.auto import chosen_run
from masactrl.rerun.compare import comparison_of, edit_in
from masactrl.rerun.edit import edit_of
from masactrl.rerun.kinds import request_of
from masactrl.rerun.layouts import layouts_of
from masactrl.rerun.sweep import axes_of, plain_recipe
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.motion import GAIT_NAMES
from masactrl.settings.declare import settings_of
from masactrl.settings.shared import MethodName, RunSettings
from masactrl.studies.sweep_result import SWEEP

if TYPE_CHECKING:
    from masactrl.rerun.edit import AskedMasks
    from masactrl.rerun.layouts import AskedLayout
    from masactrl.runs.inversion_request import InversionRequest
    from masactrl.runs.recipe import Recipe
    from masactrl.runs.request import GenerateRequest

__all__ = ["Opened", "opened"]

_TABS = {"generate": "set", "edit": "edit", "compare": "compare"}
"""Which tab shows which kind of recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """Where a recipe is shown.

    Attributes:
        tab: its name.
        values: of the tab's fields, those that the recipe says.
        told: sentences about the recipe, and what the fields cannot show.
    """

    tab: str
    values: Mapping[str, Any]
    told: str


def opened(recipe: Recipe, tabs: Mapping[str, Sequence[str]]) -> Opened:
    """Return the tab for a recipe and what its fields show.

    Args:
        recipe: of any picture.
        tabs: the names of the fields of every tab that can be filled.

    Raises:
        ConfigError: no tab shows such a recipe, or what is in it cannot be.
    """
    told = [f"{recipe.picture}, made by masactrl {recipe.masactrl} with {recipe.model.name}."]
    if (found := _grid(recipe)) is not None and "grid" in tabs:
        shown, more = _layout_values(plain_recipe(recipe))
        return _opened("grid", found | shown, [*told, *more], tabs)
    if recipe.kind == "animate" and "animate" in tabs:
        values, more = _animate_values(recipe, tabs["animate"])
        return _opened("animate", values, [*told, *more], tabs)
    recipe, more = _run_of(recipe)
    told += more
    tab = _TABS.get(recipe.kind)
    if tab is None:
        raise ConfigError(
            f"The picture is of a run of {recipe.kind!r}, for which no tab has fields to fill. "
            "`masactrl info` shows every recipe."
        )
    if tab == "edit":
        values, more = _edit_values(recipe)
        told += more
    elif tab == "compare":
        request, methods, options = comparison_of(recipe)
        values = shown_values(tabs[tab], request)
        known = [one for one in methods if one in get_args(MethodName) and one != "fixed-seed"]
        values |= {"methods": known, "target_prompt": request.target_prompts[0]}
        told += ["The tab has no fields for the methods' options."] if options else []
    else:
        request = request_of(recipe.request)
        values = shown_values(tabs[tab], request)
        if request.method_options:
            told.append("The tab has no fields for the method's options.")
    shown, more = _layout_values(recipe)
    values |= shown
    told += more
    return _opened(tab, values, told, tabs)


def _layout_values(recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Return what the fields of a layout show, and sentences about its picture and the rest."""
    layouts = layouts_of(recipe.request)
    if not layouts:
        return {}, []
    first, *others = layouts
    files = [one.name for one in recipe.inputs[-sum(one.files for one in layouts) :]]
    told = [f"The layout is not in the recipe: choose {files[0]} again."] if files else []
    if others or first.files > 1 or first.begin or first.source:
        told.append("The tab has fields for one layout, for all targets and from the first step.")
    return _of_layout(first), told


def _of_layout(layout: AskedLayout) -> dict[str, Any]:
    return {
        "layout_kind": layout.kind,
        "layout_scale": layout.scale,
        "layout_until": layout.end,
    }


def _animate_values(recipe: Recipe, names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Return what the fields of "Animate" show, and sentences about the rest."""
    plain, motion = plain_animation(recipe)
    request: GenerateRequest | EditRequest
    told, own = [], {}
    if recipe.request.get("of") == "edit":
        inversion, request, _ = edit_of(plain)
        own = shown_values([*settings_of(RunSettings)], inversion) | {
            "source_prompt": inversion.source_prompt,
            "inversion": inversion.method,
            "negative_prompt": request.negative_prompt or "",
        }
        told = [f"A recipe holds no picture: choose {recipe.inputs[0].name} again."]
        missing = [one for one in _missing(inversion, request, None) if one != "compare"]
        told += [f"The tab has no fields for {', '.join(missing)}."] if missing else []
    else:
        request = request_of(plain.request)
    gait = motion.poses in GAIT_NAMES
    values = (
        shown_values(names, request)
        | own
        | {
            "target_prompt": request.target_prompts[0],
            "poses": motion.poses if gait else OWN_POSES,
            "frames": motion.frames,
            "fps": motion.fps,
            "first_frame": motion.first_frame,
            "layout_kind": motion.kind,
            "layout_scale": motion.layout_scale,
            "layout_until": motion.layout_until,
        }
    )
    told += [] if gait else ["The poses are not in the recipe: choose their pictures again."]
    return values, told


def _opened(
    tab: str, values: Mapping[str, Any], told: Sequence[str], tabs: Mapping[str, Sequence[str]]
) -> Opened:
    shown = {name: one for name, one in values.items() if name in tabs[tab]}
    return Opened(tab=tab, values=shown, told=" ".join(told))


def _run_of(recipe: Recipe) -> tuple[Recipe, list[str]]:
    """Return the run that a tab can show of a figure, and what is said about it."""
    if recipe.kind == "sweep":  # a cell is a run with one S and one L, and tabs show runs
        recipe = plain_recipe(recipe)
        s, layer = recipe.request["start_step"], recipe.request["start_layer"]
        return recipe, [f"It is of a sweep; shown is its run with S={s}, L={layer}."]
    if recipe.kind == "auto":
        return chosen_run(recipe), ["It is a grid to choose from; shown is the run that was taken."]
    if recipe.kind == "attention":
        return watched_run(recipe), ["It shows where a picture looked; shown is its run."]
    if recipe.kind == "compare" and "inversion" in recipe.request:
        edit = replace(edit_in(recipe)[0], kind="edit")
        return edit, ["It compares methods on a photo; shown is masactrl's edit."]
    return recipe, []


def _grid(recipe: Recipe) -> dict[str, Any] | None:
    """Return what the fields of "Grid" show for a whole sweep from words; None for all others."""
    if recipe.kind != "sweep" or recipe.picture != SWEEP or recipe.request.get("of") != "generate":
        return None
    axes, request = axes_of(recipe), request_of(plain_recipe(recipe).request)
    if len(request.target_prompts) != 1:
        return None
    return shown_values([one.name for one in fields(request)], request) | {
        "target_prompt": request.target_prompts[0],
        "start_steps": ", ".join(map(str, axes.start_steps)),
        "start_layers": ", ".join(map(str, axes.start_layers)),
    }


def _edit_values(recipe: Recipe) -> tuple[dict[str, Any], list[str]]:
    """Return what the fields of "Edit a photo" show, and sentences about the rest."""
    inversion, request, masks = edit_of(recipe)
    plain = [name for name in settings_of(EditRequest) if name != "negative_prompt"]
    values = shown_values([*settings_of(RunSettings)], inversion) | shown_values(plain, request)
    values |= {
        "source_prompt": inversion.source_prompt,
        "inversion": inversion.method,
        "noise_shift": inversion.noise_shift or 0,
        "negative_prompt": request.negative_prompt or "",
        "keep_background": bool(recipe.request["keep_background"]),
        "source_word": "",
        "target_word": "",
    }
    count = sum(one.files for one in layouts_of(recipe.request))
    named = ", ".join(one.name for one in recipe.inputs[: len(recipe.inputs) - count])
    told = [f"A recipe holds no picture: choose {named} again."]
    if masks is not None and masks.by == "words":
        values |= _words(masks)
    missing = _missing(inversion, request, masks)
    if missing:
        told.append(f"The tab has no fields for {', '.join(missing)}, which the run had.")
    return values, told


def _words(masks: AskedMasks) -> dict[str, Any]:
    source, target = masks.source, masks.targets[0] if masks.targets else ""
    words = {"source_word": source, "target_word": target}
    shown: dict[str, Any] = {name: one for name, one in words.items() if isinstance(one, str)}
    return shown | {"mask_threshold": masks.threshold}


def _missing(
    inversion: InversionRequest, request: EditRequest, masks: AskedMasks | None
) -> list[str]:
    """Return the names of settings that the fields cannot show and that differ from the usual."""
    usual = {"replay": None, "seed": None, "iterations": None, "fresh_steps": None, "fit": "auto"}
    found = [name for name, one in usual.items() if getattr(inversion, name) != one]
    if inversion.method != "null-text" and inversion.guidance_scale not in (None, 1):
        found.append("guidance of the source")
    found += [] if request.compare else ["compare"]
    found += _part_of_guidance(request)
    # The source of another method runs with every edit, whatever is asked for.
    found += ["mode"] if request.method == "masactrl" and request.mode == "joint" else []
    found += ["the method's options"] if request.method_options else []
    found += ["seed of the edit"] if request.seed else []
    found += ["steps of the targets"] if request.target_steps else []
    if masks is not None and masks.by == "words":
        plain = all(isinstance(one, str) for one in (*masks.targets, masks.source or ""))
        found += [] if plain and len(set(masks.targets)) == 1 else ["words of every target"]
    if masks is not None and masks.by == "pictures" and masks.files > 1:
        found.append("masks of targets")
    return found


def _part_of_guidance(request: Any) -> list[str]:
    """Return the names of the ends of guidance that are not those of the run."""
    usual = {"guidance_begin": 0.0, "guidance_end": 1.0}
    return [name for name, one in usual.items() if getattr(request, name) != one]
