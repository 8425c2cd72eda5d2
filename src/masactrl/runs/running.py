"""What holds while a run lasts: torch's defaults, and the model as the run's settings want it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from masactrl.settings.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masactrl.models import LoadedModel
    from masactrl.settings.shared import RunSettings

__all__ = ["running"]


@contextmanager
def running(model: LoadedModel, settings: RunSettings) -> Iterator[None]:
    """Let the settings of a run hold inside the `with` block; afterwards all is as it was.

    Args:
        model: that runs.
        settings: of the run; of an edit those of its inversion.
    """
    from masactrl.models.clip_skip import clip_skip
    from masactrl.models.compiled import compiled_run

    with torch_defaults(), clip_skip(model.pipeline, settings.clip_skip), compiled_run(model):
        yield
