"""The nodes: thin, in the host's terms. What they do is in `control`, `source` and `masactrl`."""

from __future__ import annotations

from typing import Any

import comfy.ldm.modules.attention as host_attention
import comfy.sample
import comfy.samplers
import comfy.utils
import folder_paths
import nodes as host_nodes
import numpy as np
import torch
from comfy.patcher_extension import WrappersMP
from PIL import Image
from torch import Tensor

from masactrl.attention.schedule import Schedule, preset
from masactrl.errors import ConfigError, MaskError
from masactrl.pictures.images import Tile, contact_sheet
from masactrl.pictures.overlays import SeenPoint, attention_figure
from masactrl.studies.axes import parse_values

from . import small_model
from .control import Control, find_layers, layer_number
from .source import Replay, inverted, with_noise

CATEGORY = "MasaCtrl"
KEY = "masactrl"
DRAWN, NOISED, INVERTED = (
    "drawn beside its targets",
    "a photo, with noise",
    "a photo, inverted (Euler)",
)


def _attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *, mask: Any, **options: Any) -> Tensor:
    """The host's attention; with a mask its PyTorch one, which takes a mask of one row of keys."""
    run = host_attention.optimized_attention if mask is None else host_attention.attention_pytorch
    found: Tensor = run(q, k, v, heads, mask=mask, **options)
    return found


class MasaCtrl:
    """MODEL to MODEL: targets of the latent batch read keys and values of the source."""

    CATEGORY, FUNCTION = CATEGORY, "attach"
    RETURN_TYPES, RETURN_NAMES = ("MODEL", "MASACTRL_VIEWS"), ("model", "views")
    DESCRIPTION = (
        "Mutual self-attention: the first images of the batch are sources, the others keep their "
        "subject and do what their own prompts say. Works with any sampler, LoRA, ControlNet and "
        "IP-Adapter. A later start keeps less of the source."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "start_by": (["preset", "step", "share of the noise"],),
                "start_step": ("INT", {"default": 4, "min": 0, "max": 999}),
                "start_percent": ("FLOAT", {"default": 0.08, "min": 0.0, "max": 1.0, "step": 0.01}),
                "start_layer": (
                    "STRING",
                    {"default": "preset", "tooltip": "A block (output.6) or a number; L."},
                ),
                "form": (["replace", "union"],),
                "strength": ("FLOAT", {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}),
                "sources": ("INT", {"default": 1, "min": 1, "max": 16}),
            },
            "optional": {
                "masks": ("MASACTRL_MASKS",),
                "source": ("MASACTRL_SOURCE",),
                "watch_layer": (
                    "STRING",
                    {"default": "", "tooltip": "A block whose attention is kept for a look."},
                ),
            },
        }

    def attach(
        self,
        model: Any,
        start_by: str,
        start_step: int,
        start_percent: float,
        start_layer: str,
        form: Any,
        strength: float,
        sources: int,
        masks: tuple[Tensor, float] | None = None,
        source: Any = None,
        watch_layer: str = "",
    ) -> tuple[Any, Any]:
        """Return a patched clone of the model, and where its looks are kept."""
        layers = find_layers(model.get_model_object("diffusion_model"))
        sampling = model.get_model_object("model_sampling")
        usual = start_layer.strip() in ("", "preset")
        first = preset(layers).start_layer if usual else layer_number(start_layer, layers)
        when: dict[str, Any] = {"fraction": preset(layers).fraction} if start_by == "preset" else {}
        if start_by == "step":
            when = {"start_step": start_step}
        elif start_by != "preset" and start_percent > 0:
            level = torch.tensor(sampling.percent_to_sigma(start_percent))
            when = {"max_timestep": float(sampling.timestep(level))}
        control = Control(
            layers,
            Schedule(start_layer=first, **when),
            sources=sources,
            form=form,
            strength=strength,
            masks=None if masks is None else masks[0],
            threshold=0.5 if masks is None else masks[1],
            attention=_attention,
            watched=layer_number(watch_layer, layers) if watch_layer.strip() else None,
        )
        return _attached(model, control, source), control.views


def _attached(model: Any, control: Control, source: Any) -> Any:
    """A clone of the model with the control at the host's patch points."""
    patched = model.clone()
    taken = patched.model_options.get("transformer_options", {}).get("patches_replace", {})
    for block in control.replaced:
        if block in taken.get("attn1", {}) or block[:2] in taken.get("attn1", {}):
            raise ConfigError(
                f"Another node replaces the self-attention of {block[0]}.{block[1]}, and two "
                "cannot both. Take it off, or use no masks, union, strength and watch_layer here."
            )
        patched.set_model_attn1_replace(control.replace, *block)
    patched.set_model_attn1_patch(control.patch)
    replay = None if source is None else Replay(source)
    if replay is not None:
        patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, replay.apply_model)

    def sampled(
        executor: Any,
        noise: Tensor,
        latent: Tensor,
        sampler: Any,
        sigmas: Tensor,
        *rest: Any,
        **named: Any,
    ) -> Any:
        sampling = executor.class_obj.model_patcher.get_model_object("model_sampling")
        levels = [float(sigma) for sigma in sigmas[:-1]]
        control.begin(noise.shape[0], levels, [float(sampling.timestep(s)) for s in sigmas[:-1]])
        if replay is not None:
            replay.images = noise.shape[0]
        try:
            made = executor(noise, latent, sampler, sigmas, *rest, **named)
        except BaseException:
            control.drop()
            raise
        control.end()
        if replay is None:
            return made
        patcher = executor.class_obj.model_patcher
        return patcher.model.process_latent_out(
            replay.finished(patcher.model.process_latent_in(made))
        )

    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, sampled)
    return patched


class MasaCtrlSource:
    """One start for source and targets; of a photo also its path, so that it stays what it is."""

    CATEGORY, FUNCTION = CATEGORY, "start"
    RETURN_TYPES, RETURN_NAMES = ("LATENT", "MASACTRL_SOURCE"), ("latent", "source")
    DESCRIPTION = (
        "An empty latent: all images start from one noise (KSampler). A photo (VAE Encode): set "
        "add_noise to disable in KSampler (Advanced), the noise is in the latent already; connect "
        "source to MasaCtrl."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("MODEL",),
                "latent": ("LATENT",),
                "targets": ("INT", {"default": 1, "min": 1, "max": 64}),
                "kind": ([DRAWN, NOISED, INVERTED],),
                "seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}),
                "steps": ("INT", {"default": 50, "min": 1, "max": 1000}),
                "scheduler": (comfy.samplers.KSampler.SCHEDULERS, {"default": "simple"}),
            },
            "optional": {"source_prompt": ("CONDITIONING",)},
        }

    def start(
        self,
        model: Any,
        latent: dict[str, Any],
        targets: int,
        kind: str,
        seed: int,
        steps: int,
        scheduler: str,
        source_prompt: Any = None,
    ) -> tuple[dict[str, Any], Any]:
        """Return the batch of latents, source first, and the source's path (None if drawn)."""
        samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
        if len(samples) != 1:
            raise ConfigError(
                f"MasaCtrl Source got {len(samples)} latents; give one, the source, and say with "
                "targets how many follow."
            )
        empty = not bool(samples.any())
        if empty != (kind == DRAWN):
            raise ConfigError(
                f"kind is {kind!r}, but the latent is {'empty' if empty else 'a picture'}. Connect "
                "Empty Latent Image for a drawn source and VAE Encode for a photo."
            )
        count = targets + 1
        if empty:
            batch = samples.repeat(count, 1, 1, 1)
            return {"samples": batch, "batch_index": [0] * count}, None
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, scheduler, steps)
        clean = model.model.process_latent_in(samples)
        if kind == NOISED:
            noise = comfy.sample.prepare_noise(samples, seed)
            path = with_noise(clean, noise, float(sigmas[0]))
        else:
            path = self._inverted(model, samples, clean, sigmas, source_prompt)
        start = model.model.process_latent_out(path.latents[-1])
        return {"samples": start.repeat(count, 1, 1, 1), "batch_index": [0] * count}, path

    @staticmethod
    def _inverted(model: Any, samples: Tensor, clean: Tensor, sigmas: Tensor, prompt: Any) -> Any:
        if prompt is None:
            raise ConfigError(
                "The inversion needs source_prompt: the words for what is in the photo (they "
                "may be empty, CLIP Text Encode with no text)."
            )
        rising = sigmas.flip(0).clone()
        rising[0] = min(1e-4, float(rising[1]) / 2)  # the sampler divides by it
        seen: list[Tensor] = []

        def note(_step: int, _denoised: Tensor, x: Tensor, _total: int) -> None:
            seen.append(x.detach().cpu().clone())

        end = comfy.sample.sample_custom(
            model,
            torch.zeros_like(samples),
            1.0,
            comfy.samplers.sampler_object("euler"),
            rising,
            prompt,
            prompt,
            samples,
            callback=note,
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=0,
        )
        seen.append(model.model.process_latent_in(end).cpu())
        return inverted(clean, [float(s) for s in rising], seen)


class MasaCtrlPrompts:
    """CONDITIONING with one row an image: the source's prompt, then a target's in every line."""

    CATEGORY, FUNCTION = CATEGORY, "encode"
    RETURN_TYPES, RETURN_NAMES = (
        ("CONDITIONING", "CONDITIONING", "INT"),
        (
            "prompts",
            "source_prompt",
            "targets",
        ),
    )
    DESCRIPTION = "The source's prompt and one target's prompt in every line, in batch order."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        words = ("STRING", {"multiline": True, "dynamicPrompts": True})
        return {"required": {"clip": ("CLIP",), "source": words, "targets": words}}

    def encode(self, clip: Any, source: str, targets: str) -> tuple[Any, Any, int]:
        """Encode every prompt by the host and put the rows together."""
        lines = [line.strip() for line in targets.splitlines() if line.strip()]
        if not lines:
            raise ConfigError("MasaCtrl Prompts got no target. Write one target's prompt per line.")
        rows = [
            clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for text in (source, *lines)
        ]
        longest = int(np.lcm.reduce([words.shape[1] for words, _ in rows]))
        every = [words.repeat(1, longest // words.shape[1], 1) for words, _ in rows]
        options = dict(rows[0][1])
        pooled = [options_of.get("pooled_output") for _, options_of in rows]
        if all(one is not None for one in pooled):
            options["pooled_output"] = torch.cat(pooled)
        return [[torch.cat(every), options]], [list(rows[0])], len(lines)


class MasaCtrlMasks:
    """Foregrounds of source and targets: each part reads the same part of the source."""

    CATEGORY, FUNCTION = CATEGORY, "masks"
    RETURN_TYPES = ("MASACTRL_MASKS",)
    DESCRIPTION = "White is the subject. One mask for the source; one for all targets, or one each."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "source": ("MASK",),
                "target": ("MASK",),
                "targets": ("INT", {"default": 1, "min": 1, "max": 64}),
                "threshold": ("FLOAT", {"default": 0.5, "min": 0.01, "max": 1.0, "step": 0.01}),
            }
        }

    def masks(
        self, source: Tensor, target: Tensor, targets: int, threshold: float
    ) -> tuple[tuple[Tensor, float]]:
        """Return (1 + targets, height, width) in [0, 1], and the threshold."""
        if len(target) not in (1, targets):
            raise MaskError(
                f"{len(target)} target masks were given for {targets} targets; give one, or "
                "one each."
            )
        own = target if len(target) == targets else target.repeat(targets, 1, 1)
        size = (source.shape[-2], source.shape[-1])
        if own.shape[-2:] != size:
            own = torch.nn.functional.interpolate(own[:, None], size, mode="nearest")[:, 0]
        made = torch.cat([source[:1], own])
        for number, share in enumerate((made >= threshold).float().mean(dim=(1, 2)).tolist()):
            if share in (0.0, 1.0):
                raise MaskError(
                    f"The mask of image {number} is {'full' if share else 'empty'}, so it "
                    "separates nothing. Paint the subject white, or choose another threshold."
                )
        return ((made, threshold),)


class MasaCtrlGrid:
    """One target under several starts: every S and every L, drawn by the host's sampler."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "draw", ("IMAGE",)
    DESCRIPTION = "Rows are S (steps), columns are L (layers). Values: 0,4,8 or 0-8(+4)."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        sampler = comfy.samplers.KSampler
        return {
            "required": {
                "model": ("MODEL",),
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "latent": ("LATENT",),
                "vae": ("VAE",),
                "start_steps": ("STRING", {"default": "0,2,4,8"}),
                "start_layers": ("STRING", {"default": "output.3, output.6, output.9"}),
                "target": ("INT", {"default": 1, "min": 1, "max": 64}),
                "seed": ("INT", {"default": 0, "min": 0, "max": 0xFFFFFFFFFFFFFFFF}),
                "steps": ("INT", {"default": 20, "min": 1, "max": 1000}),
                "cfg": ("FLOAT", {"default": 7.5, "min": 0.0, "max": 100.0, "step": 0.1}),
                "sampler_name": (sampler.SAMPLERS, {"default": "ddim"}),
                "scheduler": (sampler.SCHEDULERS, {"default": "simple"}),
            },
            "optional": {"source": ("MASACTRL_SOURCE",)},
        }

    def draw(
        self,
        model: Any,
        positive: Any,
        negative: Any,
        latent: dict[str, Any],
        vae: Any,
        start_steps: str,
        start_layers: str,
        target: int,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        source: Any = None,
    ) -> tuple[Tensor]:
        """Return the grid as one picture, the source above it."""
        layers = find_layers(model.get_model_object("diffusion_model"))
        named = [layer_number(one, layers) for one in start_layers.split(",")]
        rows: list[list[Tile]] = []
        for step in parse_values("start_steps", start_steps.replace(" ", "")):
            row = []
            for layer in named:
                control = Control(
                    layers, Schedule(start_step=step, start_layer=layer), attention=_attention
                )
                (made,) = host_nodes.common_ksampler(
                    _attached(model, control, source),
                    seed,
                    steps,
                    cfg,
                    sampler_name,
                    scheduler,
                    positive,
                    negative,
                    latent,
                    disable_noise=source is not None,
                )
                if target >= len(made["samples"]):
                    raise ConfigError(
                        f"target={target} was asked for, but the batch has targets 1 to "
                        f"{len(made['samples']) - 1}."
                    )
                pictures = _pictures(vae.decode(made["samples"][[0, target]]))
                if not rows and not row:
                    rows.append([Tile(image=pictures[0], caption="source")])
                words = f"S={step}, L={layers[layer].name}"
                row.append(Tile(image=pictures[1], caption=words))
            rows.append(row)
        return (_batch([contact_sheet(rows)]),)


class MasaCtrlLook:
    """Where one point of a target looked in its source, at the watched layer."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "look", ("IMAGE",)
    DESCRIPTION = "Name a watch_layer in MasaCtrl; images are what the sampler made, decoded."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        part = ("FLOAT", {"default": 0.5, "min": 0.0, "max": 0.999, "step": 0.01})
        return {
            "required": {
                "views": ("MASACTRL_VIEWS",),
                "images": ("IMAGE",),
                "x": part,
                "y": part,
                "target": ("INT", {"default": 1, "min": 1, "max": 64}),
            }
        }

    def look(self, views: Any, images: Tensor, x: float, y: float, target: int) -> tuple[Tensor]:
        """Return the target with the point, and the source with the weights."""
        if not views.layers:
            raise ConfigError(
                "No layer was watched. Write one (output.6) into watch_layer of MasaCtrl, and let "
                "images come from the sampler that uses its model."
            )
        seen = views.look((x, y), target=target - 1)
        pictures = _pictures(images)
        point = SeenPoint(
            point=(x, y),
            weights=seen.map.numpy(),
            captions=(f"target {target}", f"mean of steps {seen.steps[0]} to {seen.steps[-1]}"),
        )
        sources = len(pictures) - views.targets
        figure = attention_figure(pictures[0], pictures[sources + target - 1], [point])
        return (_batch([figure.to_image()]),)


class MasaCtrlLoadSmall:
    """An exported model that is smaller than the usual ones: the embedded `puppets`."""

    CATEGORY, FUNCTION = CATEGORY, "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    DESCRIPTION = "Files of masactrl export. Models of usual sizes: Load Checkpoint."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"file": (folder_paths.get_filename_list("checkpoints"),)}}

    def load(self, file: str) -> tuple[Any, Any, Any]:
        """Return the host's three parts."""
        return small_model.load(folder_paths.get_full_path_or_raise("checkpoints", file))


class MasaCtrlEmbeddedControlNet:
    """The embedded model's ControlNet: it follows skeletons as `masactrl` draws them."""

    CATEGORY, FUNCTION, RETURN_TYPES = CATEGORY, "load", ("CONTROL_NET",)

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {}}

    def load(self) -> tuple[Any]:
        """Return the host's ControlNet."""
        return (small_model.load_controlnet(),)


def _pictures(images: Tensor) -> list[Image.Image]:
    """IMAGE (n, height, width, 3) in [0, 1] as pictures."""
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Image.fromarray(one) for one in pixels]


def _batch(pictures: list[Image.Image]) -> Tensor:
    """Pictures of one size as IMAGE."""
    arrays = [np.asarray(one.convert("RGB"), dtype=np.float32) / 255 for one in pictures]
    return torch.from_numpy(np.stack(arrays))


NODE_CLASS_MAPPINGS = {
    "MasaCtrl": MasaCtrl,
    "MasaCtrlSource": MasaCtrlSource,
    "MasaCtrlPrompts": MasaCtrlPrompts,
    "MasaCtrlMasks": MasaCtrlMasks,
    "MasaCtrlGrid": MasaCtrlGrid,
    "MasaCtrlLook": MasaCtrlLook,
    "MasaCtrlLoadSmall": MasaCtrlLoadSmall,
    "MasaCtrlEmbeddedControlNet": MasaCtrlEmbeddedControlNet,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MasaCtrl": "MasaCtrl",
    "MasaCtrlSource": "MasaCtrl Source",
    "MasaCtrlPrompts": "MasaCtrl Prompts",
    "MasaCtrlMasks": "MasaCtrl Masks",
    "MasaCtrlGrid": "MasaCtrl Grid",
    "MasaCtrlLook": "MasaCtrl Where did it look",
    "MasaCtrlLoadSmall": "MasaCtrl Load Small Model",
    "MasaCtrlEmbeddedControlNet": "MasaCtrl Embedded ControlNet",
}
