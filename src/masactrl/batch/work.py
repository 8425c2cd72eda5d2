"""What a worker does: load the model once, look over rows, make their pictures.

Everything goes through the requests and runs that the command line has; nothing is made here.
"""

from __future__ import annotations

import hashlib
import json
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from masactrl.batch.figures import edit_figures, generate_figures
from masactrl.batch.rows import Row
from masactrl.batch.sources import Sources
from masactrl.errors import ConfigError, ControlWarning, MasaCtrlError, out_of_memory
from masactrl.models.origin import file_hash
from masactrl.pictures.input import frame
from masactrl.runs.asked import Asked
from masactrl.runs.edit_result import EditResult
from masactrl.runs.invert import EditRequest, InversionRequest, invert, plan
from masactrl.runs.model_spec import ModelSpec
from masactrl.runs.recipe import stated_model
from masactrl.runs.request import GenerateRequest
from masactrl.runs.result import encoded, picture_names
from masactrl.runs.together import generate_together

if TYPE_CHECKING:
    from masactrl.models import LoadedModel
    from masactrl.runs.result import GenerateResult

__all__ = ["Entry", "Item", "Job", "Made", "Maker", "Survey", "Surveyed", "digest"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """Asks a worker what the model makes of rows; nothing is made."""

    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A row as the model sees it.

    Attributes:
        settings: digest of all settings, nothing left open; of files only how many.
        source: digest of the inversion, without its picture; empty without one.
        alike: digest of what rows have in common that can be made at once; empty for none.
        passes: rows through the U-Net.
        area: pixels of one picture as the model sees it.
        pixels: of all its pictures.
        problem: why it cannot be made; empty for what can.
    """

    settings: str = ""
    source: str = ""
    alike: str = ""
    passes: int = 0
    area: int = 0
    pixels: int = 0
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surveyed:
    """The model that will make the pictures, and the rows as it sees them."""

    model: str
    weights: str
    device: str
    dtype: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One row on its way.

    Attributes:
        key: of everything that decides about its pictures.
        row: the row.
        hashes: of its files, in their order.
        source: key of its inverted picture; empty without one.
        alike: see `Entry`, with its source.
        shared: whether other rows have the same source.
    """

    key: str
    row: Row
    hashes: tuple[str, ...]
    source: str = ""
    alike: str = ""
    shared: bool = False

    @property
    def name(self) -> str:
        """What people know it by: its picture, or its source prompt."""
        return Path(self.row.shown).stem if self.row.shown else self.row.settings["source"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Rows that are made at once; those of one source stay with one worker."""

    items: tuple[Item, ...]

    @property
    def group(self) -> str | None:
        """The source; None where it has none."""
        return self.items[0].source or None

    def parts(self) -> Sequence[Job]:
        """Return the same as jobs of one row each."""
        return [self] if len(self.items) == 1 else [Job(items=(one,)) for one in self.items]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What became of a row: PNG files by name, figures, seconds; or why there is nothing."""

    key: str
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    figures: Mapping[str, float | None] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""


class Maker:
    """Makes what jobs ask for; a value until the first job, which loads the model.

    Args:
        spec: the model.
        sources: folder of inverted pictures, see `Sources`.
        limit: bytes of them.
        metadata: whether pictures carry their recipe.
    """

    def __init__(
        self, spec: ModelSpec, *, sources: Path, limit: int = 0, metadata: bool = True
    ) -> None:
        self._spec, self._metadata = spec, metadata
        self._sources = Sources(sources, limit)
        self._loaded: LoadedModel | None = None

    def for_worker(self, place: int) -> Maker:
        """Return one for the worker at a place: where there are several GPUs, on one of its own."""
        import torch

        count = torch.cuda.device_count()
        if count < 2 or self._spec.device not in ("auto", "cuda"):
            return self
        spec = replace(self._spec, device=f"cuda:{place % count}")
        return Maker(
            spec,
            sources=self._sources.folder,
            limit=self._sources.limit,
            metadata=self._metadata,
        )

    def begin(self) -> None:
        """Load the model, so that no row's time has it."""
        _ = self.model

    @property
    def model(self) -> LoadedModel:
        """The model, loaded now where it was not."""
        if self._loaded is None:
            self._loaded = self._spec.load()
        return self._loaded

    def __call__(self, job: Survey | Job) -> Surveyed | tuple[Made, ...]:
        """Do a job."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ControlWarning)  # results have them
            return self._surveyed(job) if isinstance(job, Survey) else self._made(job.items)

    def _surveyed(self, survey: Survey) -> Surveyed:
        stated = asdict(stated_model(self.model))
        return Surveyed(
            model=self.model.name,
            weights=digest([stated["weights"], stated["loras"], self.model.dtype]),
            device=self.model.pipeline._execution_device.type,
            dtype=self.model.dtype,
            entries=tuple(self._entry(row) for row in survey.rows),
        )

    def _entry(self, row: Row) -> Entry:
        try:
            asked = row.asked()
            return self._edit_entry(row, asked) if asked.picture else self._entry_of(row, asked)
        except MasaCtrlError as error:
            return Entry(problem=str(error))

    def _edit_entry(self, row: Row, asked: Asked) -> Entry:
        picture, inversion, request = _edit_parts(asked)
        preset = self.model.preset
        steps = inversion.steps or preset.steps
        # A picture of its size, so that large ones are not decoded for nothing.
        with Image.open(picture) as opened:
            width, height = opened.size
        blank = Image.new("RGB", (width, height))
        cost = plan(self.model, blank, inversion, request, ahead=True)
        resolved = request.resolve(preset, steps)
        framing = frame((width, height), native=(preset.width, preset.height), fit=inversion.fit)
        inverted = asdict(inversion) | {
            "steps": steps,
            "guidance_scale": inversion.guidance(preset),
        }
        said = dict(resolved.recipe())
        networks = row.settings.get("layout_model", ())
        alone = resolved.masks is not None or resolved.layouts
        rest = {name: value for name, value in said.items() if name != "target_prompts"}
        kept = 2 + asked.targets * (2 if request.compare else 1) + (resolved.masks is not None)
        return Entry(
            settings=digest([said, inverted, networks]),
            source=digest(inverted),
            alike="" if alone or resolved.method != "masactrl" else digest([rest, inverted]),
            passes=cost.inversion + cost.source + cost.edit,
            area=framing.padded[0] * framing.padded[1],
            pixels=kept * width * height,
        )

    def _entry_of(self, row: Row, asked: Asked) -> Entry:
        from masactrl.attention import find_layers
        from masactrl.attention.networks import network_of
        from masactrl.attention.schedule import Schedule
        from masactrl.runs.generate import method_of

        request = asked.request
        if not isinstance(request, GenerateRequest):
            raise ConfigError("The row has no picture to edit.")
        resolved = request.resolve(self.model.preset)
        control = method_of(resolved)
        if control.start is not None:
            control.start.first_step(resolved.steps)
        layers = find_layers(network_of(self.model.pipeline)[1])
        Schedule(start_layer=resolved.start_layer).resolve_layers(layers)
        Schedule(start_step=resolved.start_step).resolve_steps([0.0] * resolved.steps)
        said = dict(resolved.recipe())
        prompts = ("source_prompt", "target_prompts", "seed")
        rest = {name: value for name, value in said.items() if name not in prompts}
        branches = 1 if resolved.guidance_scale == 1 else 2
        alone = bool(resolved.layouts) or control.start is not None
        count = len(picture_names(asked.targets))
        return Entry(
            settings=digest([said, row.settings.get("layout_model", ())]),
            alike="" if alone else digest(rest),
            passes=resolved.steps * branches * count,
            area=resolved.width * resolved.height,
            pixels=count * resolved.width * resolved.height,
        )

    def _made(self, items: Sequence[Item]) -> tuple[Made, ...]:
        try:
            return self._tried(items)
        except Exception as error:  # noqa: BLE001 - one row's trouble is not the others'
            if len(items) == 1:
                return (Made(key=items[0].key, error=_sentence(error)),)
        # Too many at once, or one of them at fault.
        half = len(items) // 2
        return (*self._made(items[:half]), *self._made(items[half:]))

    def _tried(self, items: Sequence[Item]) -> tuple[Made, ...]:
        started = time.perf_counter()
        for item in items:
            _check_files(item)
        asked = [item.row.asked() for item in items]
        edits = asked[0].picture is not None
        results: Sequence[EditResult | GenerateResult] = (
            self._edited(items, asked)
            if edits
            else generate_together(self.model, [_request(one) for one in asked])
        )
        seconds = (time.perf_counter() - started) / len(items)
        return tuple(
            self._kept(item, result, seconds) for item, result in zip(items, results, strict=True)
        )

    def _edited(self, items: Sequence[Item], asked: Sequence[Asked]) -> list[EditResult]:
        picture, inversion, request = _edit_parts(asked[0])
        prompts = [one.request.target_prompts for one in asked]
        together = replace(request, target_prompts=tuple(p for each in prompts for p in each))
        if request.mode == "ahead":  # what is recorded on the way serves this edit alone
            session = invert(self.model, picture, inversion, edit=together)
        else:
            session = self._sources.session(
                items[0].source,
                self.model,
                lambda: invert(self.model, picture, inversion),
                shared=items[0].shared,
            )
        result = session.edit(together)
        found, first = [], 0
        for each in prompts:
            own = replace(result.request, target_prompts=each)
            targets = result.targets[first : first + len(each)]
            found.append(replace(result, request=own, targets=targets))
            first += len(each)
        return found

    def _kept(self, item: Item, result: EditResult | GenerateResult, seconds: float) -> Made:
        recipe = result.recipe("") if self._metadata else None
        prompts = result.prompts()
        return Made(
            key=item.key,
            pictures={
                name: encoded(name, picture, recipe, prompts)
                for name, picture in result.pictures().items()
            },
            figures=(
                edit_figures(result) if isinstance(result, EditResult) else generate_figures(result)
            ),
            seconds=round(seconds, 3),
            warnings=result.warnings,
        )


def digest(values: Any) -> str:
    """Return 32 letters that differ for other values."""
    words = json.dumps(values, sort_keys=True, default=str)
    return hashlib.sha256(words.encode()).hexdigest()[:32]


def _check_files(item: Item) -> None:
    for path, known in zip(item.row.files, item.hashes, strict=True):
        try:
            found = file_hash(path)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}.") from error
        if found != known:
            raise ConfigError(
                f"{path} was changed while the run was going; the same command makes the row "
                "from what it is then."
            )


def _edit_parts(asked: Asked) -> tuple[Path, InversionRequest, EditRequest]:
    if asked.picture is None or asked.inversion is None:
        raise ConfigError("The row has no picture to edit.")
    if not isinstance(asked.request, EditRequest):
        raise ConfigError("The row is no edit.")
    return asked.picture, asked.inversion, asked.request


def _request(asked: Asked) -> GenerateRequest:
    if not isinstance(asked.request, GenerateRequest):
        raise ConfigError("The row is an edit.")
    return asked.request


def _sentence(error: Exception) -> str:
    if out_of_memory(error):
        return "The device has no memory left for this row; give fewer targets or fewer pixels."
    if isinstance(error, MasaCtrlError):
        return str(error)
    reason = str(error).strip().partition("\n")[0] or "no reason given"
    return f"Unforeseen {type(error).__name__}: {reason} (probably a mistake in masactrl)."
