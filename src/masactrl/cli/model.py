"""The model of a command: its options on the one side, `masactrl.models.load_pipeline` behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masactrl.models import LoadedModel


def load_model(
    model: str,
    *,
    device: str,
    dtype: str = "auto",
    revision: str | None = None,
    lora: Sequence[str] | None = None,
    offload: str = "none",
    allow_pickle: bool = False,
) -> LoadedModel:
    """Load what --model and the options beside it say; arguments are their values.

    Args:
        model: see `masactrl.models.load_pipeline`, as all others.
        lora: words PATH:SCALE, in order.

    Raises:
        ModelNotFound: there is no such model, or it cannot be read.
        UnsupportedPipeline: it is no text-to-image Stable Diffusion.
        ConfigError: options that cannot be, alone or together.
    """
    from masactrl.models import Lora, load_pipeline

    return load_pipeline(
        model,
        device=device,
        dtype=str(dtype),
        revision=revision,
        loras=[Lora.parse(one) for one in lora or ()],
        offload=str(offload),
        allow_pickle=allow_pickle,
    )
