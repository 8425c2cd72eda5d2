r"""Plug-and-Play diffusion features (Tumanyan et al., CVPR 2023): the source's layout, other looks.

    f  <- f_s                  at one residual block, in the first int(tau_f N) steps
    A(Q_s, K_s, V)             in the decoder's self-attention, in the first int(tau_A N) steps

    f, f_s      residual features of target and source: what the block adds to its input
    Q_s, K_s    queries and keys of the source, same layer, same step;   V  the target's values
    tau_f       features (0.8);   tau_A  attention (0.5), parts of the run from the noisiest step

Stable Diffusion: block `up_blocks.1.resnets.1`, layers 8 to 15. Other networks: the second residual
block of the first decoder block with attention, and all self-attention from the same place on.
Targets of both guidance branches read the conditional pass of the source (the paper's code runs the
source once, with its inversion prompt).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from masactrl.attention.attachment import attach
from masactrl.attention.control_hooks import ControlHook, HookSession, hooked
from masactrl.attention.layers import unwrap
from masactrl.attention.networks import find_layers
from masactrl.attention.schedule import Schedule
from masactrl.attention.support import denoiser_of
from masactrl.errors import ConfigError, UnsupportedPipeline
from masactrl.methods.method import Parts, check_pairs
from masactrl.methods.steps import FirstSteps, first_steps
from masactrl.methods.structure import Branch, structure_index, values_of
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import Tensor, nn

    from masactrl.attention.call import LayerCall
    from masactrl.attention.layers import AttentionLayer
    from masactrl.attention.rows import Rows

__all__ = ["FEATURE_LAYER", "PlugAndPlay"]

FEATURE_LAYER = -1
"""The layer number under which the residual block is reported; it is no attention layer."""


class _FeatureHook(ControlHook):
    """Gives targets the residual features of their source; sits on the block's last convolution."""

    def __init__(self, source: Branch) -> None:
        super().__init__(FEATURE_LAYER)
        self._source = source

    def post_forward(self, _module: nn.Module, output: Tensor) -> Tensor:
        """(rows, channels, height, width) with the targets' rows replaced."""
        rows = self.context.rows
        if not self.context.acting or rows is None:
            return output
        self.seen = True
        return output[structure_index(rows, output.shape[0], source=self._source)]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlugAndPlay:
    """Plug-and-Play; raises `ConfigError` for values outside their range.

    `features` is tau_f and `attention` tau_A, both 0 (off) to 1; `block` is the path of the
    residual block and `layers` the self-attention layers in execution order, None for those of the
    head of this file; `source` says which guidance branch of the source targets read.
    """

    features: float = 0.8
    attention: float = 0.5
    block: str | None = None
    layers: tuple[int, ...] | None = None
    source: Branch = "conditional"
    name: ClassVar[str] = "plug-and-play"
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        for field in ("features", "attention"):
            if not 0.0 <= getattr(self, field) <= 1.0:
                raise ConfigError(
                    f"{field}={getattr(self, field)} was given; accepted is 0 (off) to 1."
                )
        if self.source not in ("own", "conditional"):
            raise ConfigError(
                f"source={self.source!r} was given; accepted are 'own' and 'conditional'."
            )
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(self.layers))

    @contextmanager
    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> Iterator[Parts]:
        """Inject features and attention inside the `with` block; yields "features", "attention".

        Raises `RowsError`, `ScheduleError`, `UnsupportedPipeline` before anything is changed, and
        `ControlNotApplied` when the latest run was not controlled.
        """
        del prompts  # the method looks at pictures, not at words
        check_pairs(self.name, rows)
        everywhere = find_layers(denoiser_of(pipeline))
        block, convolution, layers = self._places(unwrap(denoiser_of(pipeline)), everywhere)
        attention = Schedule.never()
        if self.attention > 0:
            attention = FirstSteps(part=self.attention, layers=layers)
        controlled = attention.resolve_layers(everywhere)
        hook = _FeatureHook(self.source)
        session = HookSession(
            [hook] if self.features > 0 else [],
            rows=rows,
            steps=lambda timesteps: first_steps(self.features, len(timesteps)),
            on_call=lambda _: _check_block(block, convolution),
        )
        with ExitStack() as stack:
            values = stack.enter_context(values_of(controlled))

            def control(call: LayerCall) -> Tensor:
                index = structure_index(call.rows, call.bank.shape[0], source=self.source)
                return values.attend(call, index)

            parts = {
                "attention": stack.enter_context(
                    attach(pipeline, control, rows=rows, schedule=attention)
                ),
                "features": stack.enter_context(hooked(pipeline, session, [(convolution, hook)])),
            }
            yield Parts(by_name=parts)

    def _places(
        self, unet: nn.Module, layers: Sequence[AttentionLayer]
    ) -> tuple[nn.Module, nn.Module, tuple[int, ...]]:
        """The residual block, its last convolution, and the layers."""
        path, default = _usual_places(layers)
        path = self.block or path
        try:
            block: Any = unet.get_submodule(path)
            convolution: nn.Module = block.conv2
        except AttributeError as error:
            raise UnsupportedPipeline(
                f"{path} is no residual block of this network; name one such as "
                "up_blocks.1.resnets.1."
            ) from error
        return block, convolution, self.layers or default


def _usual_places(layers: Sequence[AttentionLayer]) -> tuple[str, tuple[int, ...]]:
    """The block and layers of the paper, found by structure and not by number."""
    first = next((layer for layer in layers if layer.place == "decoder"), None)
    if first is None:
        raise UnsupportedPipeline(
            "The decoder of this network has no self-attention, which Plug-and-Play works on."
        )
    block = ".".join(first.name.split(".")[:2])  # up_blocks.1
    before = f"{block}.attentions.0."
    default = tuple(
        layer.index
        for layer in layers
        if layer.place == "decoder" and not layer.name.startswith(before)
    )
    return f"{block}.resnets.1", default


def _check_block(block: nn.Module, convolution: nn.Module) -> None:
    if getattr(block, "conv2", None) is not convolution:
        raise UnsupportedPipeline(
            "The convolution whose features are injected was replaced after the method was "
            "attached. Load LoRA and adapters before attaching."
        )
