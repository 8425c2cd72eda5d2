"""The source of a study: drawn by a model from its prompt, or a picture that was inverted.

    source          a run of it
    `LoadedModel`   `generate(model, GenerateRequest(...))`
    `EditSession`   `session.edit(EditRequest(...))`

What is asked for decides which of the two it is; studies ask here where they differ.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from masactrl.errors import ConfigError
from masactrl.pictures.input import Framing
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.layout import stated_files
from masactrl.runs.recipe import Recipe, stated_model

if TYPE_CHECKING:
    from PIL import Image

    from masactrl.models import LoadedModel
    from masactrl.runs.recipe import InputStated
    from masactrl.runs.request import GenerateRequest
    from masactrl.runs.session import EditSession

__all__ = ["Request", "Source", "Study", "study_of"]

Source: TypeAlias = "LoadedModel | EditSession"
Request: TypeAlias = "GenerateRequest | EditRequest"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Study:
    """A source and what is asked of it.

    Attributes:
        model: that draws or has inverted it.
        request: what is asked; `settings` is the same with nothing left open.
        session: the inverted picture; None where every run draws the source anew, always the same.
    """

    model: LoadedModel
    request: Any
    session: EditSession | None = None

    @property
    def settings(self) -> Any:
        """A `ResolvedRequest` or `ResolvedEdit`."""
        steps = () if self.session is None else (self.session.trajectory.steps,)
        return self.request.resolve(self.model.preset, *steps)

    @property
    def picture(self) -> Image.Image | None:
        """The picture that was inverted."""
        return None if self.session is None else self.session.picture

    @property
    def prompt(self) -> str:
        """What the source shows; empty where nobody said."""
        if self.session is not None:
            return self.session.trajectory.prompt
        return str(self.request.source_prompt)

    @property
    def framing(self) -> Framing:
        """How pictures lie on the model's grid."""
        if self.session is not None:
            return self.session.framing
        size = (self.settings.width, self.settings.height)
        return Framing(original=size, scaled=size, padded=size)

    def run(self, request: Any, **how: Any) -> Any:
        """Make a request; returns what `generate` or `EditSession.edit` does, as are keywords."""
        from masactrl.runs.generate import generate

        if self.session is not None:
            return self.session.edit(request, **how)
        return generate(self.model, request, **how)

    @property
    def of(self) -> Literal["generate", "edit"]:
        """The kind of a plain run."""
        return "generate" if self.session is None else "edit"

    def told(self) -> dict[str, Any]:
        """The request and the inversion as values that JSON knows, for recipes."""
        if (session := self.session) is None:
            return dict(self.settings.recipe())
        steps = {"steps": session.trajectory.steps}
        return {**self.settings.recipe(), "inversion": asdict(session.request) | steps}

    def inputs(self) -> tuple[InputStated, ...]:
        """The files that went in: the picture and its masks, then the layouts."""
        files = stated_files(self.request.layouts)
        if self.session is None:
            return files
        masks = () if self.request.masks is None else self.request.masks.stated
        return (*self.session.stated, *masks, *files)

    def recipe(self, kind: str, picture: str, **more: Any) -> Recipe:
        """The recipe of a study's picture: the request, the inversion, and more that was asked."""
        return Recipe(
            kind=kind,
            picture=picture,
            model=stated_model(self.model),
            device=self.model.pipeline._execution_device.type,
            dtype=self.model.dtype,
            request={**self.told(), **more},
            inputs=self.inputs(),
        )


def study_of(source: Source, request: Request) -> Study:
    """Return the study of a source.

    Raises:
        ConfigError: the request is not one for such a source.
    """
    from masactrl.runs.session import EditSession

    if isinstance(source, EditSession) and isinstance(request, EditRequest):
        return Study(model=source.model, request=request, session=source)
    if isinstance(source, EditSession) or isinstance(request, EditRequest):
        raise ConfigError(
            f"{type(source).__name__} and {type(request).__name__} were given; accepted are a "
            "model with a GenerateRequest, or what invert(model, picture) returns with an "
            "EditRequest."
        )
    return Study(model=source, request=request)
