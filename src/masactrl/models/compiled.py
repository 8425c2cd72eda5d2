"""`--compile`: the denoiser's calls as CUDA graphs, or its parts as compiled kernels, too.

    graphs     every run records its calls of the network once and launches them at once
               (`masactrl.attention.graphs`); nothing is compiled, a GPU is needed
    kernels    torch.compile, and on a GPU the graphs on top

What is compiled lies below the hooks that a control puts on layers: residual blocks, feed-forward
blocks, and attention itself, as far as nothing hooks onto its inside. The control stays outside of
every compiled graph, so steps, targets, prompts and forms compile nothing anew; a graph is made for
every shape, and for attention that reads another context than its own.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D

from masactrl.attention.graphs import replaying
from masactrl.attention.layers import unwrap
from masactrl.attention.networks import network_of
from masactrl.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masactrl.models.loading import LoadedModel

__all__ = ["Compiled", "compiled_run", "with_compiled"]

Compiled = Literal["none", "graphs", "kernels"]
"""See the head of `masactrl.models.compiled`."""

_SHAPES = 256  # torch gives up at 8 for a piece of code, which all blocks of a network share


def with_compiled(
    model: LoadedModel, how: str, *, offload: str = "none", backend: Any = "inductor"
) -> LoadedModel:
    """Return the model whose runs are fast after a first one; its parts are compiled in place.

    Args:
        model: loaded, with its LoRAs.
        how: see `Compiled`; "none" changes nothing.
        offload: as the model was loaded.
        backend: of torch.compile.

    Raises:
        ConfigError: no such way, no GPU for graphs, or parts of the model wait elsewhere.
    """
    if how not in get_args(Compiled):
        raise ConfigError(
            f"compile={how!r} was given; accepted are {', '.join(get_args(Compiled))}."
        )
    if how == "none":
        return model
    if offload != "none":
        raise ConfigError(
            f"compile={how} needs the whole model on its device, and offload={offload} keeps parts "
            "of it elsewhere; leave out one of the two."
        )
    device = model.pipeline.device.type
    if how == "graphs" and device != "cuda":
        raise ConfigError(
            f"compile=graphs launches CUDA graphs, and the device is {device}; leave it out, or "
            "give compile=kernels."
        )
    if how == "kernels":
        joint = network_of(model.pipeline)[0].joint
        kinds = (FeedForward,) if joint else (FeedForward, ResnetBlock2D, Attention)
        for module in unwrap(model.denoiser).modules():
            if type(module) in kinds:
                part: Any = module
                part.forward = torch.compile(part.forward, dynamic=False, backend=backend)
    return replace(model, compiled=how)


@contextmanager
def compiled_run(model: LoadedModel) -> Iterator[None]:
    """What a run of a compiled model needs inside the `with` block; nothing for any other."""
    if model.compiled == "none":
        yield
        return
    graphs = replaying(model.denoiser) if model.pipeline.device.type == "cuda" else nullcontext()
    with torch._dynamo.config.patch(recompile_limit=_SHAPES), graphs:
        yield
