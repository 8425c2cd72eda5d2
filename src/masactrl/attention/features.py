"""The source's features, recorded once and read by any number of later runs.

What a target reads of its source is the source's normalised hidden states at the same step, layer
and guidance branch. Recorded in one source-only run, they serve target-only runs that give the same
pictures as source and targets in one batch. (Features kept while inverting an image are the wrong
ones: at equal timesteps inversion sees the cleaner latent, denoising the noisier.)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SideBySide", "SourceFeatures"]


class SourceFeatures:
    """Hidden states by (step, layer), each (branches, images, tokens, channels).

    `dtype` and `device` say how they are kept (None: as they come); half precision halves the
    memory, the CPU keeps it off the accelerator. They are converted back when read. At 512x512 the
    six default layers of Stable Diffusion take about 1 GiB in half precision with guidance.
    """

    def __init__(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> None:
        self._dtype, self._device = dtype, device
        self._hidden: dict[tuple[int, int, int, int], Tensor] = {}
        self._maps: dict[tuple[int, int], Tensor] = {}
        self._timesteps: dict[tuple[int, int], float] = {}
        self.images = 0

    def __len__(self) -> int:
        return len(self._hidden)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = [*self._hidden.values(), *self._maps.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)

    @property
    def timesteps(self) -> dict[int, float]:
        """The recorded steps with their timesteps."""
        return {step: timestep for (step, call), timestep in self._timesteps.items() if call == 0}

    def clear(self) -> None:
        """Forget everything."""
        self._hidden.clear()
        self._maps.clear()
        self._timesteps.clear()
        self.images = 0

    def put(
        self,
        step: int,
        timestep: float,
        layer: int,
        hidden: Tensor,
        images: int,
        *,
        part: int = 0,
        call: int = 0,
    ) -> None:
        """Keep the hidden states (branches * images, tokens, channels) of one layer call.

        `part` is which attention of the layer it is (see `AttentionLayer.parts`), `call` which
        denoiser call of the step, where there are several.
        """
        self.images = images
        self._timesteps[step, call] = timestep
        kept = self._kept(hidden).reshape(-1, images, *hidden.shape[1:])
        self._hidden[step, call, layer, part] = kept

    def put_map(self, step: int, layer: int, maps: Tensor, timestep: float | None = None) -> None:
        """Keep the attention maps (images, tokens) of one cross-attention layer.

        `timestep` is needed at steps where nothing else is recorded.
        """
        if timestep is not None:
            self._timesteps.setdefault((step, 0), timestep)
        self._maps[step, layer] = self._kept(maps)

    def get(
        self, step: int, timestep: float, layer: int, *, part: int = 0, call: int = 0
    ) -> Tensor:
        """The hidden states (branches, images, tokens, channels) for one layer call.

        Raises `ConfigError` when they were not recorded, or at another timestep.
        """
        self._check(step, timestep, call)
        if (step, call, layer, part) not in self._hidden:
            layers = sorted({key[2] for key in self._hidden})
            raise ConfigError(
                f"Layer {layer} was not recorded at step {step}; the recording holds layers "
                f"{layers}. Record with a schedule that covers the one used now."
            )
        return self._hidden[step, call, layer, part]

    def get_map(self, step: int, timestep: float, layer: int) -> Tensor:
        """The source's attention maps (images, tokens) of one cross-attention layer."""
        self._check(step, timestep)
        if (step, layer) not in self._maps:
            raise ConfigError(
                f"The source's attention maps of layer {layer} were not recorded at step {step}. "
                "Record with the same word masks as are used now."
            )
        return self._maps[step, layer]

    def _check(self, step: int, timestep: float, call: int = 0) -> None:
        if not self._timesteps:
            raise ConfigError("The recording is empty. Run the source inside record(...) first.")
        if (step, 0) not in self._timesteps:
            steps = sorted(self.timesteps)
            raise ConfigError(
                f"Step {step} was not recorded; the recording holds steps {steps[0]} to "
                f"{steps[-1]}. Record with a schedule that covers the one used now."
            )
        if (step, call) not in self._timesteps:
            raise ConfigError(
                f"Step {step} was recorded in one pass through the network, but this run makes "
                f"{call + 1}. Record the source with the same guidance."
            )
        if abs(self._timesteps[step, call] - timestep) > 1e-3:
            raise ConfigError(
                f"Step {step} was recorded at timestep {self._timesteps[step, call]:g} but this "
                f"run is at {timestep:g}. Use the same scheduler and number of steps for both."
            )

    def _kept(self, tensor: Tensor) -> Tensor:
        # A copy: compiled and offloaded networks reuse their buffers.
        return tensor.detach().to(
            device=self._device or tensor.device, dtype=self._dtype or tensor.dtype, copy=True
        )


class SideBySide(SourceFeatures):
    """Several recordings as one, to be read together: their images in this order."""

    def __init__(self, *recordings: SourceFeatures) -> None:
        super().__init__()
        self._recordings = recordings
        self.images = sum(one.images for one in recordings)

    def get(
        self, step: int, timestep: float, layer: int, *, part: int = 0, call: int = 0
    ) -> Tensor:
        """The hidden states (branches, images, tokens, channels) for one layer call."""
        kept = [one.get(step, timestep, layer, part=part, call=call) for one in self._recordings]
        return torch.cat([one.to(kept[0].device) for one in kept], dim=1)
