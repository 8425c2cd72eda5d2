"""The embedded model in ComfyUI: a Stable Diffusion that is smaller than the host's tables hold.

`masactrl export` writes the layout that the host's own loader reads, with a description in the
header. Models of the usual sizes need nothing of this file. The embedded one has other group norms,
16 latent channels and a vocabulary of its own, which the host cannot see in tensors: here its
classes are built from the description.
"""

from __future__ import annotations

import json
from contextlib import contextmanager
from functools import partial
from importlib import resources
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import comfy.cldm.cldm
import comfy.controlnet
import comfy.ldm.modules.diffusionmodules.model as host_vae
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models
import comfy.supported_models_base
import comfy.utils
import torch
from safetensors.torch import load_file
from torch import nn

from masactrl.errors import ModelNotFound, UnsupportedPipeline
from masactrl.models.single_file import unpack_description

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "model.diffusion_model."


class _Times(float):
    """A channel multiplier that need not be whole: 2.5 times 64 channels are 160, an int."""

    def __mul__(self, channels: Any) -> int:
        return round(float(self) * channels)

    __rmul__ = __mul__


def load(path: str) -> tuple[Any, Any, Any]:
    """Load an exported file as the host's (MODEL, CLIP, VAE).

    Raises:
        ModelNotFound: the file has no description; UnsupportedPipeline: it is no SD 1.x.
    """
    tensors = load_file(path)
    with TemporaryDirectory() as name:
        folder = Path(name)
        if not unpack_description(path, folder):
            raise ModelNotFound(
                f"{path} carries no description. Write it with masactrl export --single-file, or "
                "use Load Checkpoint where the model is of a usual size."
            )
        parts = {part: _read(folder / part / "config.json") for part in ("unet", "vae")}
        words = _read(folder / "text_encoder" / "config.json")
        if words.get("hidden_act") != "quick_gelu":
            raise UnsupportedPipeline(f"{path} is no Stable Diffusion 1.x; use Load Checkpoint.")
        model = _model(tensors, parts["unet"], parts["vae"])
        clip = _clip(tensors, words, folder / "tokenizer")
    return model, clip, _vae(tensors, parts["vae"])


def load_controlnet() -> Any:
    """The embedded ControlNet, which follows skeletons, as the host's CONTROL_NET."""
    folder = Path(str(resources.files("masactrl"))) / "puppets" / "weights" / "controlnet"
    described, stored = _read(folder / "config.json"), load_file(folder / WEIGHTS)
    layers, widths = described["layers_per_block"], described["block_out_channels"]
    crossed = ["CrossAttn" in kind for kind in described["down_block_types"]]
    depth = [int(one) for one in crossed for _ in range(layers)]
    config: dict[str, Any] = {
        "image_size": 32,
        "in_channels": described["in_channels"],
        "model_channels": widths[0],
        "num_res_blocks": [layers] * len(widths),
        "channel_mult": [_Times(width / widths[0]) for width in widths],
        "transformer_depth": depth,
        "transformer_depth_output": [d for d in depth[::layers] for _ in range(layers + 1)],
        "transformer_depth_middle": 1,
        "context_dim": described["cross_attention_dim"],
        "num_heads": described["attention_head_dim"],
        "use_spatial_transformer": True,
        "legacy": False,
    }
    names = comfy.utils.unet_to_diffusers(config)
    names |= {f"controlnet_mid_block.{end}": f"middle_block_out.0.{end}" for end in ENDS}
    hints = ["conv_in", *(f"blocks.{n}" for n in range(6)), "conv_out"]
    for end in ENDS:
        names |= {f"controlnet_down_blocks.{n}.{end}": f"zero_convs.{n}.0.{end}" for n in range(12)}
        for n, hint in enumerate(hints):
            names[f"controlnet_cond_embedding.{hint}.{end}"] = f"input_hint_block.{2 * n}.{end}"
    operations = _operations(described["norm_num_groups"])
    network = comfy.cldm.cldm.ControlNet(
        **config, hint_channels=3, dtype=torch.float32, operations=operations
    )
    network.input_hint_block = _hint_block(described, widths[0], operations)
    network.load_state_dict({names[name]: one.float() for name, one in stored.items()})
    return comfy.controlnet.ControlNet(
        network.eval(), load_device=comfy.model_management.get_torch_device()
    )


WEIGHTS = "diffusion_pytorch_model.safetensors"
ENDS = ("weight", "bias")


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _operations(groups: int, base: Any = comfy.ops.disable_weight_init) -> Any:
    """The host's layers, with this number of groups in every group norm."""

    class Operations(base):  # type: ignore[misc]
        class GroupNorm(base.GroupNorm):  # type: ignore[misc]
            def __init__(self, num_groups: int, num_channels: int, **options: Any) -> None:
                del num_groups
                super().__init__(groups, num_channels, **options)

    return Operations


def _model(tensors: dict[str, torch.Tensor], unet: dict[str, Any], vae: dict[str, Any]) -> Any:
    config = comfy.model_detection.detect_unet_config(tensors, PREFIX)
    widths = unet["block_out_channels"]
    config["channel_mult"] = [_Times(width / widths[0]) for width in widths]
    heads = unet["attention_head_dim"]  # their number, in spite of the name

    class Latents(comfy.supported_models.latent_formats.LatentFormat):  # type: ignore[misc]
        scale_factor = vae["scaling_factor"]
        latent_channels = vae["latent_channels"]

    class Small(comfy.supported_models.SD15):  # type: ignore[misc]
        unet_extra_config: ClassVar = {"num_heads": heads, "num_head_channels": -1}
        latent_format = Latents

        def inpaint_model(self) -> bool:
            return False

    manage = comfy.model_management
    found = Small(config)
    device = manage.get_torch_device()
    dtype = manage.unet_dtype(supported_dtypes=found.supported_inference_dtypes)
    cast = manage.unet_manual_cast(dtype, device, found.supported_inference_dtypes)
    found.set_inference_dtype(dtype, cast)
    base = comfy.ops.pick_operations(dtype, cast)
    found.custom_operations = _operations(unet["norm_num_groups"], base)
    model = found.get_model(tensors, PREFIX, device=manage.unet_offload_device())
    model.load_model_weights(dict(tensors), PREFIX)
    return comfy.model_patcher.ModelPatcher(
        model, load_device=device, offload_device=manage.unet_offload_device()
    )


def _clip(tensors: dict[str, torch.Tensor], words: dict[str, Any], tokenizer: Path) -> Any:
    special = {"start": words["bos_token_id"], "end": words["eos_token_id"]}

    class Text(comfy.sd1_clip.SDClipModel):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(
                textmodel_json_config=words,
                special_tokens={**special, "pad": words["pad_token_id"]},
                return_projected_pooled=False,
                **options,
            )
            inner = self.transformer.text_model.embeddings
            inner.token_embedding = self.operations.Embedding(
                words["vocab_size"],
                words["hidden_size"],
                dtype=inner.token_embedding.weight.dtype,
                device=inner.token_embedding.weight.device,
            )

    one = partial(
        comfy.sd1_clip.SDTokenizer,
        tokenizer_path=str(tokenizer),
        embedding_size=words["hidden_size"],
    )
    target = comfy.supported_models_base.ClipTarget(
        partial(comfy.sd1_clip.SD1Tokenizer, tokenizer=one),
        partial(comfy.sd1_clip.SD1ClipModel, clip_model=Text),
    )
    clip = comfy.sd.CLIP(target)
    prefix = {"cond_stage_model.": "clip_l."}
    clip.load_sd(
        comfy.utils.state_dict_prefix_replace(dict(tensors), prefix, filter_keys=True),
        full_model=True,
    )
    return clip


def _vae(tensors: dict[str, torch.Tensor], config: dict[str, Any]) -> Any:
    widths, channels = config["block_out_channels"], config["latent_channels"]
    made = {
        "double_z": True,
        "z_channels": channels,
        "resolution": 256,
        "in_channels": 3,
        "out_ch": 3,
        "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths],
        "num_res_blocks": config["layers_per_block"],
        "attn_resolutions": [],
        "dropout": 0.0,
    }
    state = comfy.utils.state_dict_prefix_replace(
        dict(tensors), {"first_stage_model.": ""}, filter_keys=True
    )
    with _groups_in_vae(config["norm_num_groups"]):
        vae = comfy.sd.VAE(sd=state, config={"params": {"ddconfig": made, "embed_dim": channels}})
    vae.latent_channels = channels
    return vae


@contextmanager
def _groups_in_vae(groups: int) -> Iterator[None]:
    """Let the host's VAE be built with this number of groups: it takes no argument for it."""
    usual = host_vae.ops
    host_vae.ops = _operations(groups, usual)
    try:
        yield
    finally:
        host_vae.ops = usual


def _hint_block(described: dict[str, Any], width: int, operations: Any) -> nn.Module:
    """The layers that bring a hint, 8 pixels a cell, to the latent's grid; widths of their own."""
    widths = described["conditioning_embedding_out_channels"]
    layers: list[nn.Module] = [operations.Conv2d(3, widths[0], 3, padding=1), nn.SiLU()]
    for before, after in pairwise(widths):
        layers += [operations.Conv2d(before, before, 3, padding=1), nn.SiLU()]
        layers += [operations.Conv2d(before, after, 3, padding=1, stride=2), nn.SiLU()]
    layers.append(operations.Conv2d(widths[-1], width, 3, padding=1))
    return comfy.cldm.cldm.TimestepEmbedSequential(*layers)
