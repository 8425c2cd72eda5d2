"""One way to a pipeline: the embedded model, a folder, a single file or a Hub id.

Whatever is asked for ends as a pipeline of diffusers of one of four classes, on the wanted device,
together with its preset; Stable Diffusion 1.x, 2.x and XL with a DDIM scheduler, SD3 and FLUX with
their own.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from pickle import PickleError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from diffusers import (
    DDIMScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from safetensors import SafetensorError

from masactrl.attention.layers import unwrap
from masactrl.attention.networks import find_layers, network_of
from masactrl.errors import (
    ConfigError,
    MasaCtrlError,
    ModelNotFound,
    UnsupportedPipeline,
    out_of_memory,
)
from masactrl.models.adapters import Lora, with_loras, with_offload
from masactrl.models.compiled import with_compiled
from masactrl.models.devices import choose_device, choose_dtype
from masactrl.models.few_steps import for_few_steps, recognised
from masactrl.models.file_kind import family_of_file
from masactrl.models.hub import fetch_index, repository_files
from masactrl.models.joint import latent_channels
from masactrl.models.locate import EMBEDDED, EMBEDDED_FOLDERS, INDEX, PICKLES, ModelSource, locate
from masactrl.models.origin import Origin, OriginKind, weights_hash
from masactrl.models.presets import Family, ModelPreset, default_preset, read_preset
from masactrl.models.single_file import unpack_description
from masactrl.models.variants import files_in, variant_of, weights_there
from masactrl.settings.torch_defaults import torch_defaults

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from masactrl.diffusion import NoiseKind

Pipeline: TypeAlias = (
    StableDiffusionPipeline | StableDiffusionXLPipeline | StableDiffusion3Pipeline | FluxPipeline
)

CLASSES: Mapping[Family, type[Pipeline]] = {
    "sd": StableDiffusionPipeline,
    "sdxl": StableDiffusionXLPipeline,
    "sd3": StableDiffusion3Pipeline,
    "flux": FluxPipeline,
}

# LookupError: diffusers, over files in a part that have no ending.
_UNREADABLE = (OSError, ValueError, LookupError, RuntimeError, PickleError, SafetensorError)

# What DDIM of Stable Diffusion is, for the keys that the model's own scheduler has no word for.
# DDIMScheduler's own defaults would clip latents to [-1, 1], which ruins them without an error.
_DDIM_OF_STABLE_DIFFUSION = {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A pipeline that is ready to run, and how to run it best.

    Attributes:
        pipeline: on its device, in its precision, scheduler set, progress bar off.
        name: what it was asked for by: "puppets", a Hub id, the name of a folder or file.
        family: which settings and words it knows.
        preset: settings for all that a request leaves open.
        origin: where it came from, for recipes.
        compiled: "none", "graphs" or "kernels", see `masactrl.models.compiled`.
    """

    pipeline: Pipeline
    name: str
    family: Family
    preset: ModelPreset
    origin: Origin = field(default_factory=Origin)
    compiled: str = "none"

    @property
    def denoiser(self) -> Any:  # of diffusers, which is untyped
        """The U-Net or transformer."""
        return network_of(self.pipeline)[1]

    @property
    def kind(self) -> NoiseKind:
        """How picture and noise are mixed: "diffusion", or "flow" in SD3 and FLUX."""
        return network_of(self.pipeline)[0].noise

    @property
    def dtype(self) -> str:
        """Precision of the denoiser, as recipes name it: float32, float16, bfloat16."""
        return str(self.denoiser.dtype).removeprefix("torch.")


@torch_defaults()
def load_pipeline(
    model: str | Path = EMBEDDED,
    *,
    device: str = "auto",
    dtype: str = "auto",
    revision: str | None = None,
    config: str | Path | None = None,
    loras: Sequence[Lora] = (),
    offload: str = "none",
    allow_pickle: bool = False,
    recipe: str = "auto",
    compiled: str = "none",
) -> LoadedModel:
    """Load a Stable Diffusion 1.x, 2.x, XL, 3 or 3.5 model, or FLUX.1.

    Weights are read from safetensors files unless `allow_pickle` says otherwise, and no code of a
    model is ever run. The safety checker is not loaded.

    Args:
        model: "puppets" (the embedded model), a folder in diffusers format, a `.safetensors` file
            or a Hub id such as "stable-diffusion-v1-5/stable-diffusion-v1-5".
        device: see `choose_device`.
        dtype: see `choose_dtype`.
        revision: branch, tag or commit of a Hub id.
        config: for a `.safetensors` file only: the folder or Hub id whose configuration files
            describe it. None takes what `export_single_file` put into the file; where there is
            nothing, it finds the kind out by the content and asks the Hub for its configuration.
        loras: LoRA files, added in order.
        offload: "none", or parts wait in the host's memory: "model" one part at a time,
            "sequential" one layer at a time; needs a GPU.
        allow_pickle: whether pickled weights (.ckpt, .bin) are read where there are no others; with
            torch's weights-only reader, which is safer than none and no proof.
        recipe: of a model or LoRA that was distilled for a few steps, see
            `masactrl.models.few_steps`; "auto" recognises it, "none" looks for none.
        compiled: "graphs" or "kernels" for fast runs after a first slow one, see
            `masactrl.models.compiled`.

    Raises:
        ModelNotFound: there is no such model, or it cannot be read.
        UnsupportedPipeline: it is no text-to-image Stable Diffusion.
        ConfigError: device, precision or a combination of arguments that cannot be; a pickle.
    """
    target = choose_device(device)
    choose_dtype(dtype, target)  # refuses what cannot be before anything is read
    place = locate(model, allow_pickle=allow_pickle)
    if revision is not None and place.kind != "hub":
        raise ConfigError(f"A revision belongs to a Hub id, and {str(model)!r} is none.")
    if config is not None and place.kind != "file":
        raise ConfigError(f"config belongs to a .safetensors file, and {str(model)!r} is none.")

    family: Family
    try:
        if place.kind == "file":
            family, pipeline, found = _from_file(place, config, dtype, target)
        else:
            index = _index(place, revision)
            family = _family_of(index, place)
            local = place.kind == "folder"
            files = (
                files_in(Path(place.source)) if local else repository_files(place.source, revision)
            )
            pipeline = CLASSES[family].from_pretrained(
                place.source,
                revision=revision,
                variant=variant_of(files, pickles=allow_pickle),
                use_safetensors=None if allow_pickle else True,
                dtype=_precision(family, dtype, target),
                **_spare(family),
                **_absent(family, index),
            )
            found = read_preset(Path(place.source)) if local else None
    except (MasaCtrlError, torch.OutOfMemoryError):
        raise  # says what it is already
    except _UNREADABLE as error:
        if out_of_memory(error):
            raise
        raise ModelNotFound(_why_not(place, error)) from error

    check_channels(pipeline, place.source)
    stated, preset = found or (None, usual_preset(family, pipeline))
    if recipe == "auto":
        names = [Path(place.name).name, *(one.path.name for one in loras)]
        recipe = "" if found else recognised(pipeline.scheduler, names)
        recipe = recipe if hasattr(pipeline, "unet") else ""
    if recipe not in ("", "none"):
        preset = for_few_steps(pipeline, recipe, preset)
    if preset.scheduler == "ddim":
        pipeline.scheduler = ddim_like(pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    made = LoadedModel(
        pipeline=pipeline if offload != "none" else pipeline.to(target),
        name=place.name,
        family=stated or family,
        preset=preset,
        origin=_origin(
            "embedded" if model in EMBEDDED_FOLDERS else place.kind, place, pipeline, revision
        ),
    )
    made = with_offload(with_loras(made, loras), offload, str(target))
    return with_compiled(made, compiled, offload=offload)


def _from_file(
    place: ModelSource, config: str | Path | None, dtype: str, target: torch.device
) -> tuple[Family, Pipeline, tuple[Family | None, ModelPreset] | None]:
    """Load one file; what describes it is given, or in its own header, or on the Hub."""
    family, alone = family_of_file(place.source)
    options = {"dtype": _precision(family, dtype, target)}
    if alone:
        return family, _around(place, family, config, options), None
    with TemporaryDirectory() as name:
        if config is None and Path(place.source).suffix.lower() not in PICKLES:
            config = name if unpack_description(place.source, Path(name)) else None
        pipeline = CLASSES[family].from_single_file(
            place.source,
            config=None if config is None else str(config),
            **options,
            **_spare(family),
        )
        return family, pipeline, read_preset(Path(name))


def _around(
    place: ModelSource, family: Family, config: str | Path | None, options: Mapping[str, Any]
) -> Pipeline:
    """Load a transformer's file, and all around it from a whole pipeline."""
    if config is None:
        raise ConfigError(
            f"{place.source} holds the transformer alone, as files of {family.upper()} do; give "
            "--config (config=...), the folder or Hub id of a whole pipeline, for text encoders "
            "and VAE."
        )
    whole = locate(str(config))
    index = _index(whole, None)
    if _family_of(index, whole) != family:
        raise ConfigError(
            f"{place.source} is a {family.upper()} transformer, and {config} is a "
            f"{index.get('_class_name')}; give a pipeline of its kind."
        )
    kind = StableDiffusion3Pipeline if family == "sd3" else FluxPipeline
    network: Any = SD3Transformer2DModel if family == "sd3" else FluxTransformer2DModel
    transformer = network.from_single_file(
        place.source, config=whole.source, subfolder="transformer", **options
    )
    made: Pipeline = kind.from_pretrained(
        whole.source,
        transformer=transformer,
        use_safetensors=True,
        **options,
        **_absent(family, index),
    )
    return made


def _precision(family: Family, dtype: str, target: torch.device) -> torch.dtype:
    """The precision; "auto" is bfloat16 for SD3 and FLUX on a GPU, which overflow in float16."""
    wide = dtype == "auto" and target.type == "cuda" and family in ("sd3", "flux")
    return torch.bfloat16 if wide else choose_dtype(dtype, target)


def _absent(family: Family, index: Mapping[str, Any]) -> dict[str, None]:
    """The parts that SD3 may do without and an index does not have; diffusers asks to be told."""
    parts = ("text_encoder_3", "tokenizer_3") if family == "sd3" else ()
    return {part: None for part in parts if (index.get(part) or [None])[0] is None}


def usual_preset(family: Family, pipeline: Pipeline) -> ModelPreset:
    """The settings of a family for this pipeline."""
    denoiser: Any = unwrap(network_of(pipeline)[1])
    height, width = _native_size(pipeline)
    if family not in ("sd3", "flux"):
        return default_preset(family, height=height, width=width)
    return default_preset(
        family,
        height=height,
        width=width,
        layers=len(find_layers(denoiser)),
        distilled=family == "flux" and not denoiser.config.guidance_embeds,
    )


def _origin(
    kind: OriginKind, place: ModelSource, pipeline: Pipeline, revision: str | None
) -> Origin:
    """Return where the model came from; the commit of a Hub id is the name of its snapshot."""
    commit = Path(fetch_index(place.source, revision)).parent.name if kind == "hub" else None
    return Origin(kind=kind, revision=commit, weights=weights_hash(pipeline))


def _index(place: ModelSource, revision: str | None) -> Mapping[str, Any]:
    """Return the index of a folder or repository."""
    hub = place.kind == "hub"
    path = Path(fetch_index(place.source, revision) if hub else f"{place.source}/{INDEX}")
    index: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def _family_of(index: Mapping[str, Any], place: ModelSource) -> Family:
    """Return which pipeline the folder or repository is made for."""
    for family, pipeline_class in CLASSES.items():
        if index.get("_class_name") == pipeline_class.__name__:
            return family
    accepted = " or ".join(pipeline_class.__name__ for pipeline_class in CLASSES.values())
    raise UnsupportedPipeline(
        f"{place.source} is a {index.get('_class_name')}; a {accepted} is needed."
    )


def _spare(family: Family) -> dict[str, Any]:
    """Return the arguments that leave out what text-to-image does not need."""
    if family != "sd":
        return {}
    return {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}


def check_channels(pipeline: Pipeline, name: str) -> None:
    """Refuse networks that do not make pictures from text and noise alone (inpainting has 9)."""
    takes = latent_channels(pipeline)
    gives = pipeline.vae.config.latent_channels
    if takes != gives:
        raise UnsupportedPipeline(
            f"The network of {name} takes {takes} channels where its latents have {gives}: "
            "it is no text-to-image model."
        )


def _native_size(pipeline: Pipeline) -> tuple[int, int]:
    """Return height and width in pixels of the pictures that the network was trained on."""
    network: Any = unwrap(network_of(pipeline)[1])
    # FLUX was trained on pictures of many sizes; its pipeline says which it makes unasked.
    own = getattr(network.config, "sample_size", None)
    size = getattr(pipeline, "default_sample_size", 64) if own is None else own
    rows, columns = (size, size) if isinstance(size, int) else size
    factor = pipeline.vae_scale_factor
    return rows * factor, columns * factor


def ddim_like(scheduler: Any) -> DDIMScheduler:
    """Return DDIM with the noise schedule and the prediction type of another scheduler.

    Args:
        scheduler: the model's own; it is left as it is. What it has no word for is what DDIM of
            Stable Diffusion has, and not a default of diffusers.
    """
    own = dict(scheduler.config)
    # Values that were nobody's choice, only the default of the model's own scheduler class.
    nobodys = {*own.pop("_use_default_values", ())}
    chosen = {key: value for key, value in own.items() if key not in nobodys}
    return DDIMScheduler.from_config({**_DDIM_OF_STABLE_DIFFUSION, **chosen})


def _why_not(place: ModelSource, error: Exception) -> str:
    """Return one sentence about why the model could not be read, and what to do."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".;:")
    if place.kind == "folder" and _only_pickles(Path(place.source)):
        return (
            f"The folder {place.source} holds pickle checkpoints (.bin), which can run code when "
            "loaded and are refused; convert it to .safetensors first."
        )
    if place.kind == "file":
        return (
            f"The file {place.source} could not be loaded: {reason}. A single file needs the "
            "configuration of its kind: from the Hub's cache, a connection or the argument config."
        )
    if place.kind == "folder":
        there = weights_there(Path(place.source))
        return (
            f"The model {place.source} could not be loaded: {reason}. It holds {there}; every part "
            "that model_index.json names needs weights as .safetensors, all plain or all of one "
            "variant (such as fp16)."
        )
    return f"The model {place.source} could not be loaded: {reason}."


def _only_pickles(folder: Path) -> bool:
    """Say whether there is a part of the model whose weights come as pickles alone."""
    return any(not any(pickle.parent.glob("*.safetensors")) for pickle in folder.glob("*/*.bin"))
