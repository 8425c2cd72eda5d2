"""The whole recipe of the embedded model: pictures, autoencoder, inspector, diffusion model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DiffusionPipeline,
    StableDiffusionPipeline,
    T2IAdapter,
)

from masactrl.errors import ConfigError
from masactrl.models.locate import EMBEDDED, locate
from masactrl.models.presets import default_preset, write_preset
from masactrl.puppets.inspector import Inspector
from masactrl.puppets.training.data import PictureCache, open_pictures
from masactrl.puppets.training.export import export_pipeline, forget_origin
from masactrl.puppets.training.joint import NO_T5
from masactrl.puppets.training.model import PICTURE_SIZE
from masactrl.puppets.training.run import OnRecord
from masactrl.puppets.training.train import (
    TrainedFamily,
    TrainedPipeline,
    encode_latents,
    train_diffusion,
)
from masactrl.puppets.training.train_decoder import train_decoder
from masactrl.puppets.training.train_inspector import train_inspector
from masactrl.puppets.training.train_layout import train_layout
from masactrl.puppets.training.train_lcm import save_lora, train_lcm
from masactrl.puppets.training.train_vae import train_vae
from masactrl.settings.checks import settle

STAGES: Final = (
    *("pictures", "vae", "decoder", "inspector", "diffusion"),
    *("controlnet", "adapter", "lcm"),
)
#: How the budget is divided among the stages that train; of some of them, in these proportions.
_SHARES: Final = MappingProxyType(
    {
        "vae": 0.10,
        "decoder": 0.10,
        "inspector": 0.10,
        "diffusion": 0.50,
        "controlnet": 0.08,
        "adapter": 0.05,
        "lcm": 0.07,
    }
)
_OF_THE_MODEL: Final = ("controlnet", "adapter", "lcm")  # what is trained beside a finished U-Net
_OF_SD3: Final = ("pictures", "diffusion")  # all else it has of `puppets`
_OFFSET_NOISE: Final = 0.1

OnStage = Callable[[str, Mapping[str, float]], None]
Tell = Callable[[str], OnRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What to train, where and for how long.

    Attributes:
        directory: pictures, checkpoints, logs and the exported model; an interrupted run continues.
        minutes: time budget of all training stages together.
        stages: subset of `STAGES`; a stage that is left out must have been run before.
        pictures: number of rendered training pictures.
        posed: number of further ones, in poses that words cannot say: for the inspector and the
            stages "controlnet" and "adapter".
        size: side of the pictures in pixels, a multiple of 64.
        batch: latents per step of the U-Net and what is trained beside it.
        pixel_batch: pictures per step of decoder and inspector.
        learning_rate, ema_decay: of the U-Net, see `train_diffusion`; short runs that start from
            trained weights want less of both. The rate is also that of the adapters.
        lowest, offset_noise: which noise the U-Net sees, see `train_diffusion`; an offset of None
            is 0.1, and 0 for "sd3", whose noisiest level shows no layout.
        align: draw the denoiser's middle to the inspector's features, see `alignment`.
        family: "sd" trains a U-Net, "sd3" SD3's transformer on the same latents and captions, with
            autoencoder and inspector of the embedded model or of `start_from`.
        workers: processes that render.
        seed: of scenes, initial weights and noise.
        device: "cpu" or "cuda".
        stop_after: minutes of this session, for a machine lent by the minute; the run resumes.
        start_from: folder of a trained model: the VAE is taken from it when the stage "vae" is left
            out, text encoder, U-Net, inspector and adapters begin with its weights. With the stage
            "diffusion" left out the exported model has the new decoder beside the U-Net that was
            exported before, or else that one.
    """

    directory: Path
    minutes: float = 120.0
    stages: tuple[str, ...] = STAGES
    pictures: int = 40_000
    size: int = PICTURE_SIZE
    posed: int = 20_000
    batch: int = 32
    pixel_batch: int = 16
    learning_rate: float = 1e-3
    ema_decay: float = 0.998
    lowest: int = 0
    offset_noise: float | None = None
    align: bool = True
    family: TrainedFamily = "sd"
    workers: int = 1
    seed: int = 0
    device: str = "cpu"
    stop_after: float | None = None
    start_from: Path | None = None

    def __post_init__(self) -> None:
        settle(self)
        unknown = [s for s in self.stages if s not in STAGES]
        if unknown or not self.stages:
            raise ConfigError(f"stages {self.stages} must be some of {', '.join(STAGES)}.")
        if self.minutes <= 0:
            raise ConfigError(f"minutes is {self.minutes}; a budget must be above 0.")
        for name, value in (("pictures", self.pictures), ("posed", self.posed)):
            if value < 64:
                raise ConfigError(f"{name} is {value}; give at least 64.")
        if self.size % 64 or self.size <= 0:
            raise ConfigError(f"size is {self.size}; it must be a positive multiple of 64.")
        for name, value in (
            ("batch", self.batch),
            ("pixel_batch", self.pixel_batch),
            ("workers", self.workers),
        ):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be 1 or more.")
        if not 0 < self.learning_rate < 1:
            raise ConfigError(f"learning_rate is {self.learning_rate}; give one in (0, 1).")
        if not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay is {self.ema_decay}; give one in [0, 1).")
        if not 0 <= self.lowest < 1000:
            raise ConfigError(f"lowest is {self.lowest}; timesteps are 0 to 999.")
        if not 0 <= self.offset <= 1:
            raise ConfigError(f"offset_noise is {self.offset_noise}; give a deviation in [0, 1].")
        if self.family == "sd3":
            if not {*self.stages} <= {*_OF_SD3} and self.stages != STAGES:
                raise ConfigError(
                    f"stages {self.stages} were given; the family sd3 has {' and '.join(_OF_SD3)}, "
                    "and takes all else from the embedded model or the one to start from."
                )
            if self.lowest:
                raise ConfigError(
                    "lowest belongs to the family sd; sd3 draws its noise levels in a way of its "
                    "own. Leave it out."
                )
            object.__setattr__(self, "stages", tuple(s for s in self.stages if s in _OF_SD3))

    @property
    def offset(self) -> float:
        """The offset noise, the family's own where none is given."""
        if self.offset_noise is not None:
            return self.offset_noise
        return _OFFSET_NOISE if self.family == "sd" else 0.0

    def seconds(self, stage: str) -> float:
        """The budget of one of the stages that train."""
        share = _SHARES[stage] / sum(_SHARES.get(one, 0.0) for one in self.stages)
        return 60 * self.minutes * share


def train_puppets(
    recipe: Recipe,
    *,
    on_record: OnStage | None = None,
    on_sample: Callable[[int, TrainedPipeline], None] | None = None,
) -> Path:
    """Run the stages in order.

    Args:
        recipe: what and where.
        on_record: called with (stage, named values).
        on_sample: called now and then with (step, pipeline) while the diffusion model trains.

    Returns:
        The folder of the exported model (it exists after the diffusion stage).
    """

    def tell(stage: str) -> OnRecord:
        def told(record: Mapping[str, float]) -> None:
            if on_record is not None:
                on_record(stage, record)

        return told

    if torch.device(recipe.device).type == "cuda":  # a training run owns its process
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    cache = _pictures(recipe, tell("pictures"))
    exported = recipe.directory / "model"
    earlier = _earlier(recipe)
    vae = _autoencoder(recipe, cache, earlier, tell)
    if "inspector" in recipe.stages:
        inspector = train_inspector(
            cache,
            recipe.directory / "inspector",
            budget=recipe.seconds("inspector"),
            posed=_posed(recipe, tell("pictures")),
            batch=recipe.pixel_batch,
            device=recipe.device,
            start=_trained_inspector(recipe),
            on_record=tell("inspector"),
        )
        inspector.save(exported / "inspector")
    if "diffusion" in recipe.stages:
        if vae is None:
            raise ConfigError(f"{_vae_folder(recipe)} does not exist; run the stage 'vae' first.")
        pipeline = train_diffusion(
            vae,
            cache,
            recipe.directory / "diffusion",
            budget=recipe.seconds("diffusion"),
            batch=recipe.batch,
            learning_rate=recipe.learning_rate,
            ema_decay=recipe.ema_decay,
            lowest=recipe.lowest,
            offset_noise=recipe.offset,
            seed=recipe.seed,
            device=recipe.device,
            family=recipe.family,
            stop_after=None if recipe.stop_after is None else 60 * recipe.stop_after,
            start_from=earlier,
            inspector=_inspector(exported / "inspector") if recipe.align else None,
            on_record=tell("diffusion"),
            on_sample=on_sample,
        )
        export_pipeline(pipeline, exported)
        if recipe.family == "sd3":
            write_preset(
                exported,
                "puppets-sd3",
                default_preset("puppets-sd3", height=PICTURE_SIZE, width=PICTURE_SIZE),
            )
    elif "decoder" in recipe.stages and _has_model(exported, earlier):
        finished = _finished(exported, earlier)
        finished.vae = vae
        export_pipeline(finished, exported)
    for stage in _OF_THE_MODEL:
        if stage in recipe.stages:
            _beside(stage, recipe, _finished(exported, earlier), cache, exported, tell)
    return exported


def _has_model(exported: Path, earlier: TrainedPipeline | None) -> bool:
    return earlier is not None or (exported / "model_index.json").exists()


def _finished(exported: Path, earlier: TrainedPipeline | None) -> StableDiffusionPipeline:
    """The model of this directory, or else the one to start from."""
    if (exported / "model_index.json").exists():
        return StableDiffusionPipeline.from_pretrained(exported, dtype=torch.float32)
    if earlier is None:
        raise ConfigError(
            f"{exported} holds no model yet; run the stage 'diffusion' first, or give a model to "
            "start from."
        )
    return earlier


def _beside(
    stage: str,
    recipe: Recipe,
    pipeline: StableDiffusionPipeline,
    cache: PictureCache,
    exported: Path,
    tell: Tell,
) -> None:
    """Train one of `_OF_THE_MODEL` and write it next to the model."""
    vae = pipeline.vae.to(recipe.device).eval()
    if stage == "lcm":
        (recipe.directory / "diffusion").mkdir(parents=True, exist_ok=True)
        path = recipe.directory / "diffusion" / "latents.pt"
        lora = train_lcm(
            pipeline,
            encode_latents(vae, cache, path, device=recipe.device),
            cache,
            recipe.directory / stage,
            budget=recipe.seconds(stage),
            batch=recipe.batch,
            offset_noise=recipe.offset,
            seed=recipe.seed,
            device=recipe.device,
            on_record=tell(stage),
        )
        save_lora(lora, exported / stage)
        return
    posed = _posed(recipe, tell("pictures"))
    path = recipe.directory / "posed" / "latents.pt"
    kind = ControlNetModel if stage == "controlnet" else T2IAdapter
    earlier = None if recipe.start_from is None else recipe.start_from / stage
    there = earlier is not None and (earlier / "config.json").exists()
    network = train_layout(
        "controlnet" if stage == "controlnet" else "adapter",
        pipeline,
        encode_latents(vae, posed, path, device=recipe.device),
        posed,
        recipe.directory / stage,
        budget=recipe.seconds(stage),
        batch=recipe.batch,
        learning_rate=recipe.learning_rate,
        offset_noise=recipe.offset,
        seed=recipe.seed,
        device=recipe.device,
        start=kind.from_pretrained(earlier, torch_dtype=torch.float32) if there else None,
        on_record=tell(stage),
    )
    network.half().save_pretrained(exported / stage)
    forget_origin(exported / stage / "config.json")


def _earlier(recipe: Recipe) -> TrainedPipeline | None:
    start = recipe.start_from
    if recipe.family == "sd3":
        start = Path(locate(EMBEDDED).source) if start is None else start
        without = NO_T5 if (start / "transformer").exists() else {}
        made: TrainedPipeline = DiffusionPipeline.from_pretrained(
            start, dtype=torch.float32, **without
        )
        return made
    if start is None:
        return None
    return StableDiffusionPipeline.from_pretrained(start, dtype=torch.float32)


def _trained_inspector(recipe: Recipe) -> Inspector | None:
    """The inspector beside the model to start from, where there is one."""
    folder = None if recipe.start_from is None else recipe.start_from / "inspector"
    return Inspector.load(folder) if folder is not None and folder.exists() else None


def _vae_folder(recipe: Recipe) -> Path:
    return recipe.directory / "vae" / "final"


def _autoencoder(
    recipe: Recipe, cache: PictureCache, earlier: TrainedPipeline | None, tell: Tell
) -> AutoencoderKL | None:
    """The autoencoder after its stages; None when this directory has none yet."""
    folder = _vae_folder(recipe)
    if "vae" in recipe.stages:
        train_vae(
            cache,
            recipe.directory / "vae",
            budget=recipe.seconds("vae"),
            seed=recipe.seed,
            device=recipe.device,
            on_record=tell("vae"),
        ).save_pretrained(folder)
    elif earlier is not None and not folder.exists():
        earlier.vae.save_pretrained(folder)
    if not folder.exists():
        return None
    vae = AutoencoderKL.from_pretrained(folder).to(recipe.device).eval()
    if "decoder" in recipe.stages:
        # The latents are the diffusion stage's, which finds them there.
        (recipe.directory / "diffusion").mkdir(parents=True, exist_ok=True)
        path = recipe.directory / "diffusion" / "latents.pt"
        train_decoder(
            vae,
            encode_latents(vae, cache, path, device=recipe.device),
            cache,
            recipe.directory / "decoder",
            budget=recipe.seconds("decoder"),
            batch=recipe.pixel_batch,
            seed=recipe.seed,
            device=recipe.device,
            on_record=tell("decoder"),
        ).save_pretrained(folder)
    return vae


def _inspector(folder: Path) -> Inspector:
    """The one trained in this directory, or else the shipped one."""
    return Inspector.load(folder if folder.exists() else None)


def _pictures(recipe: Recipe, told: OnRecord, *, posed: bool = False) -> PictureCache:
    return open_pictures(
        recipe.directory / ("posed" if posed else "pictures"),
        count=recipe.posed if posed else recipe.pictures,
        size=recipe.size,
        seed=recipe.seed,
        device=recipe.device,
        workers=recipe.workers,
        posed=posed,
        on_progress=lambda done, count: told({"done": done, "count": count}),
    )


def _posed(recipe: Recipe, told: OnRecord) -> PictureCache:
    """Pictures of `masactrl.puppets.posed`, rendered when the first stage asks for them."""
    return _pictures(recipe, told, posed=True)
