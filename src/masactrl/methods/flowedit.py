r"""FlowEdit (Kulikov et al., arXiv 2412.08629): from source to target without inversion, on flows.

    z^s  = (1 - s) z_0 + s eps                           the source, noised anew at every step
    z^t  = z^e + z^s - z_0                               the target at that level
    z^e += (s' - s) (v(z^t, P) - v(z^s, P_s))            the edit, which begins as z_0

At s = 0 the target is the edit. The first steps are left out: the run begins where `strength` of it
is left (the authors: 33 of 50 steps for SD3, 24 of 28 for FLUX). Both velocities are guided, the
source's less. A step of the pipeline makes z^t + (s' - s) v(z^t, P); this method evaluates the
source beside it and turns the result into the target of the next level.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from diffusers.hooks.hooks import ModelHook

from masactrl.attention.control_hooks import CallContext, HookSession, hooked
from masactrl.attention.networks import network_of
from masactrl.diffusion.noise import NoiseSchedule
from masactrl.errors import ConfigError, ControlNotApplied
from masactrl.methods.exchange import joint_layers
from masactrl.methods.local_blend import blended_steps
from masactrl.methods.method import Parts
from masactrl.methods.sdedit import NoisedSource
from masactrl.methods.starts import FromSource
from masactrl.models.denoiser import Denoiser
from masactrl.models.guided import Condition, Guided
from masactrl.models.joint import is_flux, packed, unpacked
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

    from masactrl.attention.rows import Rows
    from masactrl.methods.starts import OfSource

__all__ = ["FlowEdit"]

_SOURCE_GUIDANCE, _SOURCE_GUIDANCE_OF_FLUX = 3.5, 1.5  # the authors'


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowEdit(FromSource):
    """FlowEdit.

    Attributes:
        strength: part of the run that targets take, in (0, 1].
        source_guidance: of the source's velocity, at least 1; None is the authors', 3.5 for SD3
            and 1.5 for FLUX. The target's is that of the run.

    Raises:
        ConfigError: a value is out of its range.
    """

    strength: float = 0.66
    source_guidance: float | None = None
    name: ClassVar[str] = "flowedit"

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 < self.strength <= 1.0:
            raise ConfigError(f"strength={self.strength} was given; accepted is above 0 to 1.")
        if self.source_guidance is not None and self.source_guidance < 1:
            raise ConfigError(
                f"source_guidance={self.source_guidance} was given; accepted is 1 (none) and more."
            )

    @property
    def start(self) -> NoisedSource:
        """Targets start from their noised source, which the first z^t is."""
        return NoisedSource(strength=self.strength)

    @property
    def fitting(self) -> int:
        """Nothing is learned of the source before."""
        return 0

    def beside(self, steps: int, *, one_branch: bool) -> int:
        """The source's velocity at every step."""
        return steps * (1 if one_branch or self.source_guidance == 1 else 2)

    @contextmanager
    def attached(
        self, of: OfSource, pipeline: DiffusionPipeline, rows: Rows, prompts: tuple[str, ...]
    ) -> Iterator[Parts]:
        """Lead the targets inside the `with` block.

        Raises `UnsupportedPipeline` for a U-Net, and `ControlNotApplied` when no step was led.
        """
        del prompts  # the pipeline says them
        joint_layers(pipeline, self.name)
        scale = self.source_guidance
        if scale is None:
            scale = _SOURCE_GUIDANCE_OF_FLUX if is_flux(pipeline) else _SOURCE_GUIDANCE
        led = _Led(pipeline, of.z_0, of.seed, of.prompts, scale)
        session = HookSession(rows=rows, on_call=led.on_call)
        first = [(network_of(pipeline)[1], _First(led))]
        with (
            hooked(pipeline, session, first) as attached,
            blended_steps(pipeline, led.packed_step),
        ):
            yield Parts(by_name={"flowedit": attached}, after_step=led.step)
        if not led.steps:
            raise ControlNotApplied(
                "No step was led: the latents did not come from pipeline.scheduler.step, or the "
                "pipeline was not called inside the with block."
            )


class _First(ModelHook):  # type: ignore[misc]  # untyped
    """Shows the latents that the network gets."""

    def __init__(self, led: _Led) -> None:
        super().__init__()
        self._led = led

    def pre_forward(self, _module: nn.Module, *args: Any, **kwargs: Any) -> object:
        """The same inputs."""
        self._led.saw(args[0] if args else kwargs["hidden_states"])
        return args, kwargs


class _Led:
    """The state of one run: the edit, the source's present noise, the step."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        z_0: Tensor,
        seed: int,
        prompts: tuple[str, ...],
        scale: float,
    ) -> None:
        self._pipeline, self._z_0, self._prompts, self._scale = pipeline, z_0, prompts, scale
        # On the CPU, so that a seed means the same on every device; not the first noise again.
        self._generator = torch.Generator("cpu").manual_seed(seed + 1)
        self._edit = z_0
        self._source: Tensor | None = None
        self._context: CallContext | None = None
        self._velocity: Guided | None = None
        self._sigma: tuple[float, ...] = ()
        self._inside = False
        self.steps = 0

    def saw(self, sample: Tensor) -> None:
        """Keep the first latents, which are those of the noised source."""
        if self._source is None:
            size = (int(self._z_0.shape[-2]), int(self._z_0.shape[-1]))
            self._source = unpacked(self._pipeline, sample[: len(self._z_0)], size).to(self._z_0)

    def on_call(self, context: CallContext) -> None:
        """Note which step the network is called for."""
        if not self._inside:
            self._context = context

    def packed_step(self, latents: Tensor) -> Tensor:
        """`step` where a pipeline has its latents packed."""
        size = (int(self._z_0.shape[-2]), int(self._z_0.shape[-1]))
        return packed(self._pipeline, self.step(unpacked(self._pipeline, latents, size)))

    @torch.no_grad()
    def step(self, latents: Tensor) -> Tensor:
        """The targets (images, c, h, w) at the next level, from what the step has made."""
        info = None if self._context is None else self._context.info
        source = self._source
        if info is None or source is None:
            return latents
        velocity = self._velocity or self._begin(info.timesteps)
        s, s_next = self._sigma[info.step : info.step + 2]
        self._inside = True
        try:
            v = velocity(source, info.step).to(source)
        finally:
            self._inside = False
        before = self._edit + source - self._z_0  # z^t, which the step began with
        self._edit = self._edit + (latents.to(source) - before) - (s_next - s) * v
        noise = torch.randn(
            self._z_0.shape, generator=self._generator, dtype=torch.float32, device="cpu"
        )
        self._source = (1 - s_next) * self._z_0 + s_next * noise.to(self._z_0)
        self.steps += 1
        return (self._edit + self._source - self._z_0).to(latents)

    def _begin(self, timesteps: Sequence[float]) -> Guided:
        """Encode the sources' words and read the levels of the run; what says velocities then."""
        port = Denoiser(self._pipeline)
        self._sigma = (*(t / 1000 for t in timesteps), 0.0)
        schedule = NoiseSchedule(timesteps=tuple(timesteps), prediction="flow", sigma=self._sigma)
        text = port.encode_text([*self._prompts, ""])
        two = self._scale != 1 and not port.reads_guidance
        nothing = text.row(len(self._prompts)) if two else None
        conditions = [
            Condition(text=text.row(k), unconditional=nothing, scale=self._scale)
            for k in range(len(self._prompts))
        ]
        self._velocity = Guided(port, conditions, schedule)
        return self._velocity
