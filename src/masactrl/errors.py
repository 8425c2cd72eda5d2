"""Every error this package raises on purpose.

    MasaCtrlError
    ├── ConfigError (also a ValueError)
    │   ├── RowsError        who reads whom does not fit the batch
    │   ├── ScheduleError    steps or layers that the run or the model does not have
    │   ├── MaskError        a mask that cannot be used
    │   └── PromptError      a prompt or a word that cannot be used
    ├── UnsupportedPipeline  the pipeline (or its present state) cannot be controlled
    ├── ControlNotApplied    a run ended, or was about to go on, without the control
    ├── ModelNotFound        a model name or folder that does not resolve
    ├── MissingExtra         an optional dependency is not installed
    └── OutputError          a result cannot be written

Messages are sentences: what was given, what is accepted, what to do next.
"""

__all__ = [
    "ConfigError",
    "ControlNotApplied",
    "ControlWarning",
    "MasaCtrlError",
    "MaskError",
    "MissingExtra",
    "ModelNotFound",
    "OutputError",
    "PromptError",
    "RowsError",
    "ScheduleError",
    "UnsupportedPipeline",
    "out_of_memory",
]


class MasaCtrlError(Exception):
    """Base of all errors of this package."""


class ConfigError(MasaCtrlError, ValueError):
    """A value that was given is outside what is accepted."""


class RowsError(ConfigError):
    """The description of who reads whom is inconsistent, or does not fit the batch of the run."""


class ScheduleError(ConfigError):
    """Steps or layers were asked for that the run or the model does not have."""


class MaskError(ConfigError):
    """A mask has the wrong shape, holds NaN, selects nothing, or cannot be computed."""


class PromptError(ConfigError):
    """A prompt is empty, or a named word is not in it."""


class UnsupportedPipeline(MasaCtrlError):  # noqa: N818
    """The pipeline is of a kind, or in a state, that the control cannot serve exactly."""


class ControlNotApplied(MasaCtrlError):  # noqa: N818
    """The control did not reach the layers it was meant for."""


class ModelNotFound(MasaCtrlError):  # noqa: N818
    """A model name, folder or file does not lead to a model."""


class MissingExtra(MasaCtrlError, ImportError):  # noqa: N818
    """An optional dependency is missing.

    The message names the command that installs it:

    >>> str(MissingExtra("the web page", "app"))
    "The web page needs the extra 'app': pip install 'masactrl[app]'."
    """

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        sentence = f"{what} needs the extra '{extra}': pip install 'masactrl[{extra}]'."
        super().__init__(sentence[:1].upper() + sentence[1:])


class OutputError(MasaCtrlError, OSError):
    """A result cannot be written where it was asked for."""


class ControlWarning(UserWarning):
    """Something was given that works, but probably not as meant."""


_NO_MEMORY = (
    "out of memory",  # CUDA, MPS
    "can't allocate memory",  # torch on the CPU; the next two are its other systems' words
    "cannot allocate memory",
    "not enough memory",
    "alloc_failed",  # cuBLAS and cuDNN
)


def out_of_memory(error: BaseException) -> bool:
    """Say whether an error means that host or device has no memory left."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error).lower()
    return isinstance(error, RuntimeError) and any(one in words for one in _NO_MEMORY)
