"""What happens behind the page: runs of one model, kept apart by who asked for them.

Nothing here draws: a run takes values of fields, makes the same request as the command line, and
gives back paths, recipe and command. One run at a time is on the device; the page's queue sees to
it, and a lock here for whoever calls without the page.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masactrl.app import fields, requests
from masactrl.app.leftovers import Leftovers, own_folder, remove_orphans
from masactrl.app.opening import Opened, opened
from masactrl.app.painting import PAINTED, painted_mask
from masactrl.app.visit import Made, Report, Running, Visit, noted
from masactrl.app.watched import Watched
from masactrl.errors import ConfigError
from masactrl.layouts.networks import EMBEDDED_KINDS
from masactrl.pictures.images import save_png
from masactrl.pictures.overlays import MaskedPicture, masks_figure
from masactrl.rerun.kinds import command_line
from masactrl.runs.generate import generate
from masactrl.runs.recipe import Recipe, find_recipe
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import SHEET, write_pictures

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.invert import EditRequest, EditResult, EditSession, InversionRequest
    from masactrl.runs.result import GenerateResult
    from masactrl.studies.attention import AttentionView
    from masactrl.studies.source import Source

POOR_DB = 20.0
"""PSNR of a reconstruction below which the page says that it is poor."""


class Studio:
    """One loaded model, and everyone who uses it.

    Args:
        model: what `load_pipeline` returns.
        words: what --model was given, for the commands that are shown.
        loras: what --lora was given.
        networks: kind of layout -> ControlNet or T2I-Adapter that reads it, beside those that the
            embedded model has; visitors choose among these and name none.
    """

    def __init__(
        self,
        *,
        model: LoadedModel,
        words: str = "puppets",
        loras: tuple[str, ...] = (),
        networks: Mapping[str, str] | None = None,
    ) -> None:
        from masactrl.attention.networks import find_layers

        self.model = model
        self.words = words
        self.loras = loras
        own = EMBEDDED_KINDS if model.family == "puppets" else ()
        self.networks: Mapping[str, str | None] = {**dict.fromkeys(own), **(networks or {})}
        self.limits = fields.Limits(
            preset=model.preset,
            layers=len(find_layers(model.denoiser)),
            networks=self.networks,
            kind=model.kind,
        )
        remove_orphans()
        self._root = own_folder()
        self._leftovers: Leftovers | None = None
        self._visits: dict[str, Visit] = {}
        self._device = threading.Lock()

    @property
    def cache(self) -> Path:
        """A folder for the page's own copies, which goes with the studio."""
        return self._root / "page"

    def watch_cache(self, cache: Path) -> None:
        """Remove what visitors leave in the page's cache, too, from now on."""
        self._leftovers = Leftovers(cache)

    def keep_cache(self) -> None:
        """Leave what the page's cache holds now, its examples, until the server ends."""
        if self._leftovers is not None:
            self._leftovers.keep()

    def claim(self, session: str, *values: Any) -> None:
        """Note which uploads are a visitor's: the files that the values name."""
        if self._leftovers is not None:
            self._leftovers.claim(session, *values)

    def keep(self, session: str, picture: Image.Image) -> str:
        """Write a picture that the page shows beside results into the visitor's folder."""
        handle, path = tempfile.mkstemp(suffix=".png", dir=self._visit(session).folder)
        os.close(handle)
        picture.save(path)
        return path

    def close(self) -> None:
        """Remove every picture that is left."""
        if self._leftovers is not None:
            self._leftovers.clear()
        shutil.rmtree(self._root, ignore_errors=True)

    def leave(self, session: str) -> None:
        """Forget a visitor: stop the run, remove the pictures."""
        visit = self._visits.pop(session, None)
        if visit is not None:
            visit.stops += 1
            visit.gone = True
        if self._leftovers is not None:
            self._leftovers.leave(session, None if visit is None else visit.folder)
        if visit is not None:
            shutil.rmtree(visit.folder, ignore_errors=True)

    def ask(self, session: str) -> None:
        """Note that a run was asked for: one that is stopped while it waits never begins."""
        visit = self._visit(session)
        visit.asked = visit.stops

    def stop(self, session: str) -> None:
        """Stop the visitor's run after the step at hand, or before it begins."""
        self._visit(session).stops += 1

    def make_set(self, session: str, values: Mapping[str, Any], report: Report) -> Made:
        """Run the tab "Consistent set"."""
        from masactrl.studies.attention import run_watched

        request = requests.set_request(values, self.networks)
        with self._running(session) as (visit, folder), noted() as said:
            total = request.resolve(self.model.preset).steps
            told = visit.told(report, total)
            visit.watched.pop("set", None)
            if _looks(self.model, request):
                result, view = run_watched(self.model, request, on_step=told)
                visit.watched["set"] = _watched(result, view, folder)
            else:
                result = generate(self.model, request, on_step=told)
            paths = result.save(folder)
        recipe = result.recipe(SHEET)
        captions = ["source"]
        for number, target in enumerate(result.targets, start=1):
            captions += [f"{number} without: {target.prompt}", f"{number} with: {target.prompt}"]
        control = folder / "target1-controlled.png"
        return Made(
            shown=tuple(zip(map(str, paths[:-1]), captions, strict=True)),
            files=tuple(map(str, paths)),
            recipe=json.dumps(recipe.to_json(), indent=2),
            command=self._command(recipe),
            note=self._note(result.seconds, said),
            before_after=(str(folder / "target1-uncontrolled.png"), str(control)),
        )

    def make_grid(self, session: str, values: Mapping[str, Any], report: Report) -> Made:
        """Run the tab "Grid": a sweep, whose source is recorded once for all cells."""
        from masactrl.studies.sweep import sweep
        from masactrl.studies.sweep_plan import generated_calls

        request, axes = requests.grid_request(values, self.networks)
        with self._running(session) as (visit, folder), noted() as said:
            told = visit.told(report, generated_calls(request.steps or 0, axes))
            result = sweep(self.model, request, axes, on_step=told)
            paths = result.save(folder)
        captions = [f"S{s}, L{layer}" for s, layer in axes.cells()]
        return Made(
            shown=tuple(zip(map(str, paths[1:]), captions, strict=True)),
            files=tuple(map(str, paths)),
            # One layer alone needs no column of its own.
            columns=len(axes.start_layers) if len(axes.start_layers) > 1 else 3,
            recipe=json.dumps(result.recipe.to_json(), indent=2),
            command=self._command(result.recipe),
            note=self._note(result.seconds, said),
        )

    def make_comparison(self, session: str, values: Mapping[str, Any], report: Report) -> Made:
        """Run the tab "Compare"."""
        from masactrl.studies.compare import compare, comparison_recipe

        request, methods = requests.compare_request(values, self.networks)
        steps = request.resolve(self.model.preset).steps
        with self._running(session) as (visit, folder), noted() as said:
            told = visit.told(report, steps * len(methods))
            found = compare(self.model, request, methods=methods, on_step=told)
            recipe = comparison_recipe(self.model, request, methods=methods)
            paths = write_pictures(folder, found.pictures(), recipe, prompts=found.prompts())
        shown = []
        for column, path in zip(found.columns, paths[1:], strict=True):
            read = f": {column.figures.seen}" if column.figures else ""
            read += f", {column.note}" if column.note else ""
            shown.append((str(path), f"{column.title}{read}"))
        seconds = sum(column.seconds or 0 for column in found.columns)
        return Made(
            shown=tuple(shown),
            files=tuple(map(str, paths)),
            recipe=json.dumps(recipe.to_json(), indent=2),
            command=self._command(recipe),
            note=self._note(seconds, said),
        )

    def make_animation(self, session: str, values: Mapping[str, Any], report: Report) -> Made:
        """Run the tab "Animate"."""
        from masactrl.app.parts import can_write_mp4
        from masactrl.studies.animate import ANIMATION, animation_run
        from masactrl.studies.animate_files import film
        from masactrl.studies.source import study_of

        asked, poses, motion = requests.animate_request(values, self.networks)
        batches = -(-len(poses.pictures) // motion.batch)
        with self._running(session) as (visit, folder), noted() as said:
            if asked.picture is None or asked.inversion is None:
                steps = study_of(self.model, asked.request).settings.steps
                told = visit.told(report, steps * (1 + batches))
                source: Source = self.model
            else:
                told = visit.told(report, asked.inversion_steps(self.model) * (2 + batches))
                source = self._inverted(visit, asked.picture, asked.inversion, told)
            run = animation_run(source, asked.request, poses, on_step=told, **motion.frames_asked())
            mp4 = ("mp4",) if can_write_mp4() else ()
            made = film(run, folder, films=("gif", *mp4))
        recipe = run.recipe(ANIMATION)
        return Made(
            shown=tuple((str(path), path.stem) for path in made.paths),
            files=tuple(map(str, (*made.films, *made.paths))),
            columns=4,
            recipe=json.dumps(recipe.to_json(), indent=2),
            command=self._command(recipe),
            note=self._note(made.seconds, said),
            film=str(made.films[-1]),
        )

    def make_edit(self, session: str, values: Mapping[str, Any], report: Report) -> Made:
        """Run the tab "Edit a photo"; the same picture is inverted once for many prompts."""
        from masactrl.runs.invert import plan
        from masactrl.studies.attention import run_watched

        picture, inversion, request = requests.edit_requests(values, self.networks)
        steps = inversion.steps or self.model.preset.steps
        with self._running(session) as (visit, folder), noted() as said:
            kept = visit.keeps(picture, inversion)
            calls = plan(self.model, picture, inversion, request, ahead=not kept).calls
            told = visit.told(report, calls + (0 if kept else steps))
            source = self._inverted(visit, picture, inversion, told, request)
            visit.watched.pop("edit", None)
            if _looks(self.model, request):
                result, view = run_watched(source, request, on_step=told)
                visit.watched["edit"] = _watched(result, view, folder)
            else:
                result = source.edit(request, on_step=told)
            paths = result.save(folder)
            more = _mask_files(result, folder, values)
        quality = result.quality.psnr
        poor = " This is poor: expect parts of the picture to change." if quality < POOR_DB else ""
        recipe = result.recipe(SHEET)
        masks = [path for path in paths if path.stem.endswith("mask")]
        shown = [path for path in (*paths[:-1], *more[:1]) if path not in masks]
        captions = {"reconstruction": f"reconstruction, {quality:.1f} dB"}
        return Made(
            shown=tuple(
                (str(path), captions.get(path.stem, path.stem.replace("-", " "))) for path in shown
            ),
            files=tuple(map(str, (*paths[:-1], *more, paths[-1]))),
            recipe=json.dumps(recipe.to_json(), indent=2),
            command=self._command(recipe),
            note=f"Reconstruction {quality:.1f} dB.{poor} "
            f"{self._note(sum(result.seconds.values()), said)}",
            before_after=(str(folder / "input.png"), str(folder / "target1-controlled.png")),
        )

    def watched(self, session: str, tab: str) -> Watched | None:
        """Return the visitor's last run of a tab, to be asked where its targets looked.

        None where there was none, or where its targets looked into no source.
        """
        return self._visit(session).watched.get(tab)

    def open_result(self, path: Path, tabs: Mapping[str, Sequence[str]]) -> Opened:
        """Return which tab shows a picture's settings, what its fields show, and a line about it.

        Raises:
            ConfigError: the picture carries no recipe that a tab can show.
        """
        recipe = Recipe.parse(find_recipe(path))
        found = opened(recipe, tabs)
        kind = found.values.get("layout_kind")
        if kind is not None and kind not in self.networks:
            known = {name: one for name, one in found.values.items() if name != "layout_kind"}
            told = f"{found.told} The studio has no network for the layout {kind}."
            found = replace(found, values=known, told=told)
        if recipe.model.weights in (None, self.model.origin.weights):
            return found
        other = f"The studio runs {self.model.name}: it will draw something else."
        return replace(found, told=f"{found.told} {other}")

    def _command(self, recipe: Recipe) -> str:
        try:
            return command_line(recipe, model=self.words, loras=self.loras)
        except ConfigError:
            return ""

    def _note(self, seconds: float, warnings: Sequence[str]) -> str:
        preset = f"{self.model.name} on {self.model.pipeline._execution_device.type}"
        return " ".join([f"{preset}, {seconds:.1f} s.", *warnings])

    def _inverted(
        self,
        visit: Visit,
        picture: Path,
        inversion: InversionRequest,
        told: Callable[[Any], None],
        edit: EditRequest | None = None,
    ) -> EditSession:
        """Return the visitor's picture inverted, once for many runs, of which one may be known."""
        from masactrl.runs.invert import invert

        key = visit.key(picture, inversion)
        if visit.inverted is not None and visit.inverted[0] == key:
            return visit.inverted[1]
        visit.inverted = None
        made = invert(self.model, picture, inversion, edit=edit, on_step=told)
        visit.inverted = (key, made)
        return made

    def _visit(self, session: str) -> Visit:
        visit = self._visits.get(session)
        if visit is None:
            # A name of our own: what a browser sends never becomes part of a path.
            visit = Visit(folder=Path(tempfile.mkdtemp(dir=self._root)))
            visit = self._visits.setdefault(session, visit)
        return visit

    def _running(self, session: str) -> Running:
        return Running(self._visit(session), self._device)


def _looks(model: LoadedModel, request: GenerateRequest | EditRequest) -> bool:
    """Whether targets of the request look into their source, and it can be shown where.

    Joint attention mixes text and picture, and shows nothing yet.
    """
    return model.kind == "diffusion" and request.method == "masactrl" and request.strength > 0


def _watched(result: GenerateResult | EditResult, view: AttentionView, folder: Path) -> Watched:
    return Watched(view=view, recipe=result.recipe(SHEET), folder=folder)


def _mask_files(result: EditResult, folder: Path, values: Mapping[str, Any]) -> list[Path]:
    """Write the masks over their pictures, and keep what was painted; nothing without masks."""
    if result.mask is None:
        return []
    pictures = [MaskedPicture(picture=result.picture, mask=result.mask, caption="in the input")]
    for number, target in enumerate(result.targets, start=1):
        words = f"in target {number}"
        pictures.append(MaskedPicture(picture=target.controlled, mask=target.mask, caption=words))
    files = [folder / "subject-over-pictures.png"]
    save_png(files[0], masks_figure(pictures))
    painted = painted_mask(values.get("painted"))
    if painted is not None:
        files.append(Path(shutil.copy(painted, folder / PAINTED)))
    return files
