"""A model in one file, in the layout of the original Stable Diffusion, and what describes it.

ComfyUI and web UIs load this layout and tell models apart by the names and shapes of its tensors.
Tables go from diffusers' names to those of the original code; the way back is diffusers' own. The
small files of the folder (configurations, tokenizer, preset) travel in the file's header, so that
`load_pipeline` needs nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import zlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from masactrl._version import __version__
from masactrl.errors import ModelNotFound, OutputError, UnsupportedPipeline
from masactrl.models.presets import write_preset

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from masactrl.models.loading import LoadedModel

__all__ = ["export_single_file", "original_layout", "unpack_description"]

_HEADER: Final = "masactrl.files"
_FILE: Final = re.compile(r"(?:[a-z0-9_]+/)?[A-Za-z0-9_]+\.(?:json|txt)")
_LARGEST: Final = 64 * 2**20  # bytes that a description may unpack to

_RESNET: Final = (
    ("norm1.", "in_layers.0."),
    ("conv1.", "in_layers.2."),
    ("time_emb_proj.", "emb_layers.1."),
    ("norm2.", "out_layers.0."),
    ("conv2.", "out_layers.3."),
    ("conv_shortcut.", "skip_connection."),
)
_ENDS: Final = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "add_embedding.linear_1.": "label_emb.0.0.",
    "add_embedding.linear_2.": "label_emb.0.2.",
    "conv_in.": "input_blocks.0.0.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
}
_VAE: Final = (
    (r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}"),
    (r"mid_block\.attentions\.0", "mid.attn_1"),
    (r"down_blocks\.(\d)\.resnets", r"down.\1.block"),
    (r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample"),
    (r"up_blocks\.(\d)\.resnets", r"up.\1.block"),
    (r"up_blocks\.(\d)\.upsamplers\.0", r"up.\1.upsample"),
    ("conv_norm_out", "norm_out"),
    ("conv_shortcut", "nin_shortcut"),
    ("group_norm", "norm"),
    (r"to_([qkv])", r"\1"),
    (r"to_out\.0", "proj_out"),
)
_OPEN_CLIP: Final = (
    (r"^embeddings\.token_embedding\.weight$", "token_embedding.weight"),
    (r"^embeddings\.position_embedding\.weight$", "positional_embedding"),
    (r"^final_layer_norm\.", "ln_final."),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.layer_norm(\d)\.", r".ln_\1."),
    (r"\.mlp\.fc1\.", ".mlp.c_fc."),
    (r"\.mlp\.fc2\.", ".mlp.c_proj."),
    (r"\.self_attn\.out_proj\.", ".attn.out_proj."),
)


def export_single_file(model: LoadedModel, path: str | Path, *, half: bool | None = None) -> Path:
    """Write a model as one `.safetensors` file that ComfyUI, web UIs and `load_pipeline` read.

    Args:
        model: a loaded model; it is left as it is. Merged LoRAs are in the weights, others not.
        path: of the file to write.
        half: float16 instead of the precision that it is loaded in; None takes float16 where not a
            bit is lost by it (the model was stored so).

    Returns:
        The path.

    Raises:
        UnsupportedPipeline: a network has a form for which the layout has no names.
        OutputError: the file cannot be written, or its name does not end in .safetensors.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise OutputError(f"{path} was given; the file's name has to end in .safetensors.")
    tensors = original_layout(model.pipeline)
    if half is None:
        half = all(map(_fits_half, tensors.values()))
    if half:
        tensors = {n: t.half() if t.is_floating_point() else t for n, t in tensors.items()}
    kind = "stable-diffusion-xl-v1-base" if model.family == "sdxl" else "stable-diffusion-v1"
    header = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": kind,
        "modelspec.title": model.name,
        "modelspec.prediction_type": str(model.pipeline.scheduler.config.prediction_type),
        "masactrl.version": __version__,
        _HEADER: _packed(model),
    }
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, part, metadata=header)
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return path


def original_layout(pipeline: Any) -> dict[str, Tensor]:
    """Return all weights of a pipeline under the names of the original code, on the CPU.

    Raises:
        UnsupportedPipeline: a network has a form for which the layout has no names.
    """
    if getattr(pipeline, "unet", None) is None:
        raise UnsupportedPipeline(
            f"{type(pipeline).__name__} has no U-Net; the layout of one file is here for Stable "
            "Diffusion 1.x, 2.x and XL. Hosts load the transformer's file of SD3 and FLUX as it is."
        )
    xl = getattr(pipeline, "text_encoder_2", None) is not None
    found = {f"model.diffusion_model.{n}": t for n, t in _unet(pipeline.unet)}
    found |= {f"first_stage_model.{n}": t for n, t in _vae(pipeline.vae)}
    first = dict(_text_model(pipeline.text_encoder))
    if xl:
        found |= {
            f"conditioner.embedders.0.transformer.text_model.{n}": t for n, t in first.items()
        }
        second = _open_clip(_text_model(pipeline.text_encoder_2))
        found |= {f"conditioner.embedders.1.model.{n}": t for n, t in second.items()}
        projection = pipeline.text_encoder_2.text_projection.weight.detach()
        found["conditioner.embedders.1.model.text_projection"] = projection.T
    elif pipeline.text_encoder.config.hidden_act == "gelu":  # Stable Diffusion 2 has OpenCLIP
        found |= {f"cond_stage_model.model.{n}": t for n, t in _open_clip(first.items()).items()}
    else:
        found |= {f"cond_stage_model.transformer.text_model.{n}": t for n, t in first.items()}
    if xl and pipeline.scheduler.config.prediction_type == "v_prediction":
        found["v_pred"] = torch.tensor([])  # how this layout says so
    return {name: tensor.cpu().contiguous() for name, tensor in found.items()}


def unpack_description(path: str | Path, folder: Path) -> bool:
    """Write the small files from a file's header into ``folder``; False when it has none.

    Raises:
        ModelNotFound: the header is damaged.
    """
    with safe_open(str(path), framework="pt") as file:
        packed = (file.metadata() or {}).get(_HEADER)
    if packed is None:
        return False
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(base64.b64decode(packed, validate=True), _LARGEST)
        files = json.loads(text)
        if reader.unconsumed_tail or not all(_FILE.fullmatch(name) for name in files):
            raise ValueError
        for name, content in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(content, encoding="utf-8")
    except (ValueError, TypeError, AttributeError, binascii.Error, zlib.error) as error:
        raise ModelNotFound(
            f"The description in the header of {path} is damaged; write the file anew with "
            "masactrl export, or give the configuration with config=..."
        ) from error
    return True


def _packed(model: LoadedModel) -> str:
    """The small files of the pipeline's folder, as text for a header."""
    pipeline: Any = model.pipeline
    with TemporaryDirectory() as name:
        folder = Path(name)
        pipeline.save_config(folder)
        for part, one in pipeline.components.items():
            if one is None or part == "image_encoder":
                continue
            (folder / part).mkdir(exist_ok=True)
            if hasattr(one, "save_config"):
                one.save_config(folder / part)
            elif hasattr(one, "tokenize"):
                one.save_pretrained(folder / part)
            else:
                one.config.save_pretrained(folder / part)
        write_preset(folder, model.family, model.preset)
        files = {
            str(file.relative_to(folder).as_posix()): file.read_text(encoding="utf-8")
            for file in sorted(folder.rglob("*"))
            if file.is_file() and _FILE.fullmatch(file.relative_to(folder).as_posix())
        }
    text = json.dumps(files, ensure_ascii=False).encode()
    return base64.b64encode(zlib.compress(text, 9)).decode("ascii")


def _fits_half(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool((tensor.half().to(tensor) == tensor).all())


def _state(module: Any) -> Mapping[str, Tensor]:
    state: Mapping[str, Tensor] = module.state_dict()
    foreign = [name for name in state if ".lora_" in name or ".base_layer." in name]
    if foreign:
        raise UnsupportedPipeline(
            f"The network carries a LoRA beside its weights ({foreign[0]}). Fuse it first "
            "(pipeline.fuse_lora(), then unload_lora_weights()), or export without it."
        )
    return state


def _unet(unet: Any) -> Iterable[tuple[str, Tensor]]:
    """The U-Net's tensors; blocks are numbered through, a downsampler counts as one."""
    table = dict(_ENDS)
    number = 1
    for b, block in enumerate(unet.down_blocks):
        for layer in range(len(block.resnets)):
            table[f"down_blocks.{b}.resnets.{layer}."] = f"input_blocks.{number}.0."
            table[f"down_blocks.{b}.attentions.{layer}."] = f"input_blocks.{number}.1."
            number += 1
        if block.downsamplers:
            table[f"down_blocks.{b}.downsamplers.0.conv."] = f"input_blocks.{number}.0.op."
            number += 1
    number = 0
    for b, block in enumerate(unet.up_blocks):
        for layer in range(len(block.resnets)):
            table[f"up_blocks.{b}.resnets.{layer}."] = f"output_blocks.{number}.0."
            table[f"up_blocks.{b}.attentions.{layer}."] = f"output_blocks.{number}.1."
            number += 1
        if block.upsamplers:
            # In the last layer's block, behind its attention where it has one.
            behind = 2 if getattr(block, "attentions", None) else 1
            table[f"up_blocks.{b}.upsamplers.0."] = f"output_blocks.{number - 1}.{behind}."
    for name, tensor in _state(unet).items():
        old = next((one for one in table if name.startswith(one)), None)
        if old is None:
            raise UnsupportedPipeline(
                f"The U-Net has {name}, for which the single-file layout has no name. Accepted are "
                "Stable Diffusion 1.x, 2.x and XL."
            )
        rest = name[len(old) :]
        if "resnets" in old:
            rest = next((rest.replace(a, b, 1) for a, b in _RESNET if rest.startswith(a)), rest)
        yield table[old] + rest, tensor


def _vae(vae: Any) -> Iterable[tuple[str, Tensor]]:
    """The VAE's tensors; its attention is made of 1 x 1 convolutions, up blocks count from within.

    A VAE without attention in the middle gets one that adds zero: the original code always has it.
    """
    last = len(vae.config.up_block_types) - 1
    for name, tensor in _state(vae).items():
        convolution = ".attentions." in name and tensor.ndim == 2
        for old, new in _VAE:
            name = re.sub(old, new, name)
        name = re.sub(r"\.up\.(\d)", lambda found: f".up.{last - int(found[1])}", name)
        yield name, tensor[:, :, None, None] if convolution else tensor
    if not vae.config.mid_block_add_attention:
        channels = vae.config.block_out_channels[-1]
        empty = torch.zeros(channels, dtype=vae.dtype)
        for half in ("encoder", "decoder"):
            yield f"{half}.mid.attn_1.norm.weight", empty + 1
            yield f"{half}.mid.attn_1.norm.bias", empty.clone()
            for layer in ("q", "k", "v", "proj_out"):
                yield f"{half}.mid.attn_1.{layer}.weight", empty.new_zeros(channels, channels, 1, 1)
                yield f"{half}.mid.attn_1.{layer}.bias", empty.clone()


def _text_model(encoder: Any) -> Iterable[tuple[str, Tensor]]:
    """The text model's tensors without prefix and without what is no part of it."""
    for name, tensor in _state(encoder).items():
        if "text_projection" not in name and "position_ids" not in name:
            yield name.removeprefix("text_model."), tensor


def _open_clip(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """OpenCLIP's names; queries, keys and values are one matrix there."""
    found: dict[str, Tensor] = {}
    joint: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors:
        for old, new in _OPEN_CLIP:
            name = re.sub(old, new, name)
        if part := re.fullmatch(r"(.*)\.self_attn\.([qkv])_proj\.(weight|bias)", name):
            joint.setdefault(f"{part[1]}.attn.in_proj_{part[3]}", {})[part[2]] = tensor
        else:
            found[name] = tensor
    for name, parts in joint.items():
        found[name] = torch.cat([parts[one] for one in "qkv"])
    return found
