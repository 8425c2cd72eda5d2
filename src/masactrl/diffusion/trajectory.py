"""What an inversion gives: the way of one picture through all noise levels, and how to walk it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from masactrl.diffusion.ddim import Walk
from masactrl.diffusion.noise import NoiseSchedule
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

__all__ = ["Trajectory"]

_TENSORS = ("latents", "unconditional", "noise")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trajectory:
    """The latents of one picture at all noise levels, with all that is needed to walk back down.

    Attributes:
        latents: (steps + 1, 1, c, h, w) float32 or float64 on the CPU, noisiest first; the last
            is the picture's own latent.
        schedule: the noise levels.
        method: name of the inversion that made it.
        prompt: what the source was said to show; empty for nothing.
        unconditional_prompt: what guidance leads away from, in the source.
        guidance: weight of classifier-free guidance of the source, both ways; 1 is none.
        replay: whether the source is put back on these latents at every step.
        walk: how much fresh noise a step down takes, see `Walk`.
        corrected: whether the source's prediction error is taken off the targets' prediction
            (virtual inversion).
        unconditional: per-step unconditional embeddings (steps, words, width), or None.
        noise: the fresh noise of each step (steps, 1, c, h, w), or None.
        options: further settings of the method, for the record.

    Raises:
        ConfigError: the parts do not fit each other, or hold NaN or infinite values.
    """

    latents: Tensor
    schedule: NoiseSchedule
    method: str
    prompt: str = ""
    unconditional_prompt: str = ""
    guidance: float = 1.0
    replay: bool = True
    walk: Walk = "ddim"
    corrected: bool = False
    unconditional: Tensor | None = None
    noise: Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _TENSORS:
            tensor = getattr(self, name)
            if tensor is not None:
                kept = tensor.detach().cpu()
                # float64 stays, for comparisons; whatever is coarser becomes float32.
                kept = kept if kept.element_size() == 8 else kept.float()
                if not bool(kept.isfinite().all()):
                    raise ConfigError(
                        f"The {name} of the trajectory hold NaN or infinite values, as some "
                        "models make in float16; invert in float32 or bfloat16."
                    )
                object.__setattr__(self, name, kept)
        steps, latents = self.schedule.steps, self.latents
        if latents.ndim != 5 or latents.shape[:2] != (steps + 1, 1):
            raise ConfigError(
                f"A trajectory of {steps} steps has latents of shape ({steps + 1}, 1, c, h, w), "
                f"not {tuple(latents.shape)}."
            )
        if self.noise is not None and self.noise.shape != (steps, *latents.shape[1:]):
            raise ConfigError(
                f"The noise of a trajectory has the shape {(steps, *latents.shape[1:])}, not "
                f"{tuple(self.noise.shape)}."
            )
        if self.unconditional is not None and (
            self.unconditional.ndim != 3 or self.unconditional.shape[0] != steps
        ):
            raise ConfigError(
                f"Unconditional embeddings have the shape ({steps}, words, width), not "
                f"{tuple(self.unconditional.shape)}."
            )

    @property
    def steps(self) -> int:
        """N, the number of steps of the inversion and of every edit."""
        return self.schedule.steps

    @property
    def start(self) -> Tensor:
        """The noise (1, c, h, w) that source and targets start from."""
        return self.latents[0]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    @property
    def one_branch(self) -> bool:
        """Whether the source's two guidance branches are one and the same.

        They are when it has the same words in both, as with a null prompt.
        """
        return self.unconditional is None and self.prompt == self.unconditional_prompt

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that there are, by name."""
        named = {name: getattr(self, name) for name in _TENSORS}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def recipe(self) -> dict[str, Any]:
        """Return all but the tensors, as values that JSON knows."""
        return {
            "schedule": asdict(self.schedule),
            "method": self.method,
            "prompt": self.prompt,
            "unconditional_prompt": self.unconditional_prompt,
            "guidance": self.guidance,
            "replay": self.replay,
            "walk": self.walk,
            "corrected": self.corrected,
            "options": dict(self.options),
        }

    @classmethod
    def from_parts(cls, recipe: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Trajectory:
        """Return the trajectory that `recipe` and `tensors` gave.

        Raises:
            ConfigError: they did not come from a trajectory.
        """
        try:
            rest = {key: value for key, value in recipe.items() if key != "schedule"}
            held: dict[str, Any] = {name: tensors[name] for name in _TENSORS if name in tensors}
            return cls(schedule=NoiseSchedule(**recipe["schedule"]), **rest, **held)
        except (KeyError, TypeError) as error:
            raise ConfigError(f"The parts make no trajectory: {error}.") from error
