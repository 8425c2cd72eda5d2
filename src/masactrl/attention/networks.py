"""What differs from one family of networks to the next, all of it in this one file.

A U-Net keeps text and picture apart: a self-attention layer can be called with other hidden states.
SD3 and FLUX attend to both at once; there, keys and values of the picture's tokens are exchanged,
and the text's stay. Where a family's layers are, what order they run in, how a call of the network
is read and what may be attached to it is written here; everything else asks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from masactrl.attention.layers import AttentionLayer, flux_layers, sd3_layers, unet_layers, unwrap
from masactrl.errors import UnsupportedPipeline

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from masactrl.attention.positions import Policy

__all__ = ["FAMILIES", "DenoiserCall", "Network", "find_layers", "network_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DenoiserCall:
    """One call of the denoiser, read the same way for every family.

    `sample` are the latents as the network gets them, (rows, channels, height, width) or, packed,
    (rows, tokens, channels); `timestep` is what the network gets; `size` gives the latents'
    (height, width); `text` is the number of text tokens that attend together with the picture (0 in
    a U-Net); `skipped` are layers that this call leaves out (skip-layer guidance).
    """

    sample: Tensor
    timestep: Tensor | float
    size: Callable[[], tuple[int, int]]
    text: int = 0
    skipped: frozenset[int] = frozenset()


Read = Callable[[Sequence[Any], Mapping[str, Any]], DenoiserCall]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A family of networks.

    Attributes:
        name: of the family.
        component: the pipeline's attribute that holds the network.
        kind: its class in diffusers.
        layers: its layers in the order in which a forward pass runs them.
        read: reads a call of the network.
        joint: whether text and picture attend together.
        text_first: whether the text comes before the picture in joint attention.
        noise: what noise levels are: `diffusion` has signal sqrt(alpha_bar) and noise
            sqrt(1 - alpha_bar), `flow` has 1 - sigma and sigma.
        time_scale: the pipeline divides timesteps by this before the network gets them.
        channels: axis of the channels in the latents that the network gets.
        policies: position policies it has, the usual one first; see `masactrl.attention.positions`.
        rotary: of rotary embeddings (theta, channels of each axis), the first no place.
        tokenizers: the pipeline's, of the texts that attend, in order.
    """

    name: Literal["unet", "sd3", "flux"]
    component: Literal["unet", "transformer"]
    kind: type[nn.Module]
    layers: Callable[[nn.Module], list[AttentionLayer]]
    read: Read
    joint: bool = False
    text_first: bool = False
    noise: Literal["diffusion", "flow"] = "diffusion"
    time_scale: float = 1.0
    channels: int = 1
    policies: tuple[Policy, ...] = ("same",)
    rotary: Callable[[nn.Module], tuple[float, Sequence[int]]] | None = None
    tokenizers: tuple[str, ...] = ("tokenizer",)

    def latents(self, network: nn.Module, sample: Tensor) -> Tensor:
        """The latents without channels of conditions, which pipelines put behind them."""
        config: Any = unwrap(network).config
        count = config.out_channels or config.in_channels
        return sample.narrow(self.channels, 0, int(count))


def _read_unet(args: Sequence[Any], kwargs: Mapping[str, Any]) -> DenoiserCall:
    sample = args[0] if args else kwargs["sample"]
    timestep = args[1] if len(args) > 1 else kwargs["timestep"]
    return DenoiserCall(
        sample=sample, timestep=timestep, size=lambda: (sample.shape[-2], sample.shape[-1])
    )


def _read_sd3(args: Sequence[Any], kwargs: Mapping[str, Any]) -> DenoiserCall:
    given = _named(("hidden_states", "encoder_hidden_states", "pooled", "timestep"), args, kwargs)
    sample = given["hidden_states"]
    return DenoiserCall(
        sample=sample,
        timestep=given["timestep"],
        size=lambda: (sample.shape[-2], sample.shape[-1]),
        text=given["encoder_hidden_states"].shape[1],
        skipped=frozenset(given.get("skip_layers") or ()),
    )


def _read_flux(args: Sequence[Any], kwargs: Mapping[str, Any]) -> DenoiserCall:
    names = ("hidden_states", "encoder_hidden_states", "pooled", "timestep", "img_ids")
    given = _named(names, args, kwargs)
    places = given["img_ids"][0] if given["img_ids"].ndim == 3 else given["img_ids"]

    def size() -> tuple[int, int]:
        # Packed latents have no size of their own; every token's row and column are told beside.
        height, width = (2 * (int(places[:, axis].max()) + 1) for axis in (1, 2))
        return height, width

    return DenoiserCall(
        sample=given["hidden_states"],
        timestep=given["timestep"],
        size=size,
        text=given["encoder_hidden_states"].shape[1],
    )


def _named(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(names, args, strict=False)), **kwargs}


def _flux_rotary(network: nn.Module) -> tuple[float, Sequence[int]]:
    embedding: Any = network.pos_embed
    return float(embedding.theta), tuple(embedding.axes_dim)


FAMILIES: tuple[Network, ...] = (
    Network(
        name="unet",
        component="unet",
        kind=UNet2DConditionModel,
        layers=unet_layers,
        read=_read_unet,
    ),
    Network(
        name="sd3",
        component="transformer",
        kind=SD3Transformer2DModel,
        layers=sd3_layers,
        read=_read_sd3,
        joint=True,
        noise="flow",
        tokenizers=("tokenizer", "tokenizer_3"),
    ),
    Network(
        name="flux",
        component="transformer",
        kind=FluxTransformer2DModel,
        layers=flux_layers,
        read=_read_flux,
        joint=True,
        text_first=True,
        noise="flow",
        time_scale=1000.0,
        channels=2,
        policies=("same", "none", "damped", "matched"),
        rotary=_flux_rotary,
        tokenizers=("tokenizer_2",),
    ),
)
"""Every family that a control can be attached to."""

OFFERED = (
    "Stable Diffusion 1.x, 2.x and XL pipelines, also with ControlNet or T2I-Adapter, SD3, SD3.5 "
    "and FLUX.1"
)


def network_of(pipeline: DiffusionPipeline) -> tuple[Network, nn.Module]:
    """The family of a pipeline's denoiser and the denoiser, possibly wrapped by `torch.compile`.

    Raises `UnsupportedPipeline` for pipelines without one, and for checkpoints that are given
    pictures beside the latents (FLUX Fill, Kontext, Canny, Depth, Redux' relatives).
    """
    kind = type(pipeline).__name__
    unet = getattr(pipeline, "unet", None)
    network = unet if unet is not None else getattr(pipeline, "transformer", None)
    if not isinstance(network, nn.Module) or getattr(pipeline, "scheduler", None) is None:
        raise UnsupportedPipeline(
            f"{kind} has no U-Net or transformer with a scheduler to control. Attach to a "
            f"diffusers pipeline: {OFFERED}."
        )
    family = next((one for one in FAMILIES if isinstance(unwrap(network), one.kind)), None)
    if family is None:
        raise UnsupportedPipeline(
            f"{kind} denoises with a {type(unwrap(network)).__name__}; accepted are "
            f"{', '.join(one.kind.__name__ for one in FAMILIES)}, as in {OFFERED}."
        )
    _refuse_pictures_beside(kind, family, network)
    return family, network


def _refuse_pictures_beside(kind: str, family: Network, network: nn.Module) -> None:
    """Refuse FLUX checkpoints whose tokens, or channels, are not those of the latents alone."""
    if family.name != "flux":
        return
    config: Any = unwrap(network).config
    given, made = int(config.in_channels), int(config.out_channels or config.in_channels)
    if "Kontext" in kind or given != made:
        what = (
            "puts a reference picture's tokens beside the latents' (FLUX Kontext)"
            if given == made
            else f"reads {given} channels where its latents have {made} (FLUX Fill, Canny or Depth)"
        )
        raise UnsupportedPipeline(
            f"{kind} {what}, so source and target would differ in more than their latents. Use a "
            "checkpoint that draws from text alone, such as FLUX.1-dev, schnell or Krea."
        )


def find_layers(denoiser: nn.Module) -> tuple[AttentionLayer, ...]:
    """All layers of a denoiser that a control can act on, in the order in which they run.

    Raises `UnsupportedPipeline` when no layer is found: a control that matches nothing must not
    stay silent.
    """
    network = unwrap(denoiser)
    layers = next((one.layers for one in FAMILIES if isinstance(network, one.kind)), unet_layers)
    found = tuple(layers(network))
    if not found:
        raise UnsupportedPipeline(
            f"No self-attention layer was found in {type(network).__name__}. Accepted are networks "
            "built of transformer blocks (Stable Diffusion 1.x, 2.x, XL, SD3, FLUX); use such a "
            "pipeline."
        )
    return found
