"""Which model, and where it runs: one value in place of seven that pass by hand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from masactrl.settings.declare import Setting, check

if TYPE_CHECKING:
    from masactrl.models import LoadedModel

__all__ = ["Compiled", "Dtype", "ModelSpec", "Offload"]

MODEL = "Model and device"
"""Heading of --help."""

Dtype = Literal["auto", "float32", "float16", "bfloat16"]
"""The words of `masactrl.models.choose_dtype`."""

Recipe = Literal["auto", "none", "lcm", "tcd", "hyper-sd", "turbo", "lightning", "dmd2"]
"""The names in `masactrl.models.few_steps`, or one that is recognised, or none."""

Offload = Literal["none", "model", "sequential"]
"""The words of `masactrl.models.adapters.Offload`."""

Compiled = Literal["none", "graphs", "kernels"]
"""The words of `masactrl.models.compiled.Compiled`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """What `masactrl.models.load_pipeline` is asked for; fields as its arguments.

    Raises:
        ConfigError: a word is none that is known.
    """

    model: Annotated[
        str,
        Setting(
            help="An embedded model (puppets, or puppets-sd3), a folder in diffusers format, a "
            ".safetensors file or a Hub id (owner/name).",
            panel=MODEL,
        ),
    ] = "puppets"
    revision: Annotated[
        str | None,
        Setting(help="Branch, tag or commit of a Hub id.", usual="its main branch", panel=MODEL),
    ] = None
    loras: Annotated[
        tuple[str, ...],
        Setting(
            help="A LoRA in a .safetensors file and its weight, such as style.safetensors:0.8; 1 "
            "where none is given; repeat for more.",
            flag="lora",
            metavar="PATH:SCALE",
            usual="none",
            panel=MODEL,
        ),
    ] = ()
    recipe: Annotated[
        Recipe,
        Setting(
            help="Of a model or LoRA distilled for a few steps: its scheduler, steps and guidance. "
            "auto recognises it by scheduler and name.",
            flag="preset",
            panel=MODEL,
        ),
    ] = "auto"
    device: Annotated[
        str,
        Setting(help="auto, cpu, cuda, cuda:1, mps; auto takes the fastest.", panel=MODEL),
    ] = "auto"
    dtype: Annotated[
        Dtype,
        Setting(
            help="Precision; auto is float16 on CUDA and float32 elsewhere. bfloat16 is faster on "
            "CPUs that have it, as doctor says.",
            panel=MODEL,
        ),
    ] = "auto"
    offload: Annotated[
        Offload,
        Setting(
            help="On a GPU with little memory: model keeps one part of the model there at a time, "
            "sequential one layer at a time (slow).",
            panel=MODEL,
        ),
    ] = "none"
    compiled: Annotated[
        Compiled,
        Setting(
            help="For many pictures of one size: graphs launches every step at once (NVIDIA GPUs), "
            "kernels compiles the network's blocks as well, which takes minutes once.",
            flag="compile",
            panel=MODEL,
        ),
    ] = "none"
    allow_pickle: Annotated[
        bool,
        Setting(
            help="Read pickled weights (.ckpt, .bin) too, weights only. They can carry code: only "
            "from people you trust.",
            panel=MODEL,
        ),
    ] = False

    def __post_init__(self) -> None:
        check(self)

    def load(self) -> LoadedModel:
        """Load it.

        Raises:
            ModelNotFound: there is no such model, or it cannot be read.
            UnsupportedPipeline: it is no text-to-image Stable Diffusion.
            ConfigError: settings that cannot be, alone or together.
        """
        from masactrl.models import Lora, load_pipeline

        return load_pipeline(
            self.model,
            device=self.device,
            dtype=self.dtype,
            revision=self.revision,
            loras=[Lora.parse(one) for one in self.loras],
            offload=self.offload,
            allow_pickle=self.allow_pickle,
            recipe=self.recipe,
            compiled=self.compiled,
        )
