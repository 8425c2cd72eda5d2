"""Methods whose targets begin at a picture of their own instead of the noise of their source.

    z_0 ──> method.of_source(z_0) ──> attach          what they have to learn of that source first
     └────> method.start ─────────> z_t               the step at which targets begin, and latents

A runner makes the source first, then the targets inside `beginning`.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from masactrl.attention.networks import network_of
from masactrl.attention.rows import Rows
from masactrl.diffusion.noise import flow_schedule
from masactrl.errors import ConfigError, MaskError, PromptError, UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from diffusers import DiffusionPipeline
    from torch import Tensor

    from masactrl.methods.method import Handle, Method, Start

__all__ = ["FromSource", "OfSource", "beginning", "late_start", "noised_start", "of_source"]


class FromSource(ABC):
    """A method that has to see its sources before it can be attached.

    A method of this kind says what it learns of them and what it then does in `attached`.
    """

    __slots__ = ()
    name: ClassVar[str]
    takes_masks: ClassVar[bool] = False

    @property
    @abstractmethod
    def start(self) -> Start:
        """Where targets begin."""

    @property
    @abstractmethod
    def fitting(self) -> int:
        """Rows through the U-Net, a training step counting three, before one target begins."""

    def beside(self, steps: int, *, one_branch: bool) -> int:
        """Rows of its source through the network, beside one target of so many steps."""
        del steps, one_branch
        return 0

    @abstractmethod
    def attached(
        self, of: OfSource, pipeline: DiffusionPipeline, rows: Rows, prompts: tuple[str, ...]
    ) -> AbstractContextManager[Handle]:
        """Attach it for these sources; `prompts` are one each."""

    def of_source(
        self,
        z_0: Tensor,
        *,
        seed: int = 0,
        mask: Tensor | None = None,
        prompts: Sequence[str] = (),
    ) -> OfSource:
        """Return the method for these sources.

        Args:
            z_0: (images, c, h, w) clean latents, the source of each target.
            seed: of the noise that the method draws.
            mask: (images, 1, h, w) in {0, 1}, where targets may differ from their source; None
                leaves it to the method.
            prompts: what the sources show, one each; none where nobody said it.

        Raises:
            ConfigError: a mask was given to a method that has no use for one.
            MaskError: it is of another size.
        """
        _check_mask(self, mask)
        if mask is not None and tuple(mask.shape) != (len(z_0), 1, *z_0.shape[-2:]):
            raise MaskError(
                f"A mask of {tuple(mask.shape)} was given for latents of {tuple(z_0.shape)}; give "
                "one of 1 channel per image at the latents' size."
            )
        said = tuple(prompts) or ("",) * len(z_0)
        return OfSource(method=self, z_0=z_0, seed=seed, mask=mask, prompts=said)

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Handle]:
        """Refused: `of_source` says which sources."""
        del pipeline, rows, prompts
        raise ConfigError(
            f"The method {self.name} has to see its sources and was told of none; attach what "
            "of_source(z_0) returns."
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OfSource:
    """A method for given sources; see `FromSource.of_source`."""

    method: FromSource
    z_0: Tensor
    seed: int
    mask: Tensor | None
    prompts: tuple[str, ...]

    @property
    def name(self) -> str:
        """That of the method."""
        return self.method.name

    @property
    def start(self) -> Start:
        """That of the method."""
        return self.method.start

    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> AbstractContextManager[Handle]:
        """Attach it; `PromptError` without one prompt per source and image."""
        if prompts is None or not len(prompts) == len(self.z_0) == rows.images:
            raise PromptError(
                f"{self.name} was given {len(prompts or ())} prompts for {len(self.z_0)} sources "
                f"and {rows.images} images; give one of each per image."
            )
        return self.method.attached(self, pipeline, rows, tuple(prompts))


def _check_mask(method: Method, mask: Tensor | None) -> None:
    if mask is not None and not getattr(method, "takes_masks", False):
        raise ConfigError(f"The method {method.name} takes no masks; leave them out.")


def of_source(
    method: Method,
    z_0: Tensor,
    *,
    seed: int = 0,
    mask: Tensor | None = None,
    prompts: Sequence[str] = (),
) -> Method:
    """The method for these sources, see `FromSource`; one that need not see them, as it is.

    Raises `ConfigError` for a mask that the method has no use for.
    """
    if isinstance(method, FromSource):
        return method.of_source(z_0, seed=seed, mask=mask, prompts=prompts)
    _check_mask(method, mask)
    return method


@contextmanager
def beginning(
    pipeline: DiffusionPipeline,
    method: Method,
    *,
    prompts: Sequence[str],
    z_0: Tensor,
    noise: Tensor,
    steps: int,
    seed: int = 0,
    source_prompts: Sequence[str] = (),
) -> Iterator[Tensor]:
    """Let the pipeline make targets of a method that has a `start`; yields their first latents.

    Inside the `with` block the method is attached and runs are as short as its start says.

    Args:
        pipeline: that makes the targets.
        method: whose `start` is not None.
        prompts: of the targets.
        z_0, noise: (targets, c, h, w) clean latents of their sources, and standard normal noise.
        steps: of a whole run.
        seed: of further noise that the method draws.
        source_prompts: what the sources show, one each.
    """
    start = method.start
    if start is None:
        raise ConfigError(f"The method {method.name} starts from the noise of its source.")
    first, z_t = noised_start(pipeline, start, z_0, noise, steps)
    ready = of_source(method, z_0, seed=seed, prompts=source_prompts)
    with (
        late_start(pipeline, first),
        ready.attach(pipeline, Rows.plain(images=len(prompts)), prompts=prompts),
    ):
        yield z_t


def noised_start(
    pipeline: DiffusionPipeline, start: Start, z_0: Tensor, noise: Tensor, steps: int
) -> tuple[int, Tensor]:
    """The step at which targets begin, and their latents (n, c, h, w) there.

    `z_0` are the source's clean latents, `noise` is standard normal. Raises `UnsupportedPipeline`
    for schedulers whose latents are scaled in another way than z_t = sqrt(a) z_0 + sqrt(1 - a) eps.
    """
    scheduler: Any = pipeline.scheduler
    first = start.first_step(steps)
    family = network_of(pipeline)[0]
    if family.noise == "flow":
        patches = (z_0.shape[-2] // 2) * (z_0.shape[-1] // 2)
        schedule = flow_schedule(scheduler, steps, patches=patches, listed=family.name == "flux")
        return first, start.latents(z_0, noise, schedule.pair(first)).to(z_0.dtype)
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if alphas is None or float(scheduler.init_noise_sigma) != 1.0:
        raise UnsupportedPipeline(
            f"Targets that start from their noised source need a scheduler whose latents keep "
            f"their variance, such as DDIM, and the pipeline has {type(scheduler).__name__}. Use "
            "DDIMScheduler."
        )
    scheduler.set_timesteps(steps)
    a = float(alphas[int(scheduler.timesteps[first])])
    return first, start.latents(z_0, noise, (a**0.5, (1 - a) ** 0.5)).to(z_0.dtype)


@contextmanager
def late_start(pipeline: DiffusionPipeline, first: int) -> Iterator[None]:
    """Leave out the first steps of every run inside the `with` block.

    The scheduler's `set_timesteps` is wrapped, and put back also after an exception.
    """
    scheduler: Any = pipeline.scheduler
    inner = scheduler.set_timesteps
    own = vars(scheduler).get("set_timesteps")

    @functools.wraps(inner)
    def set_timesteps(*args: Any, **kwargs: Any) -> None:
        inner(*args, **kwargs)
        scheduler.timesteps = scheduler.timesteps[first * scheduler.order :]
        if hasattr(scheduler, "sigmas") and not hasattr(scheduler, "alphas_cumprod"):
            scheduler.sigmas = scheduler.sigmas[first:]  # a flow's, found by their number

    scheduler.set_timesteps = set_timesteps
    try:
        yield
    finally:
        if own is None:
            del scheduler.set_timesteps
        else:
            scheduler.set_timesteps = own
