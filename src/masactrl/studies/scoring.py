r"""How good an edit is: it does what was asked, and the subject is still the same.

    score = 2 e s / (e + s)      e  the edit was done;  s  the subject was kept;  both in [0, 1]

The harmonic mean rewards both and neither alone: doing nothing has e = 0, the prompt alone a small
s. On the embedded model the inspector measures both on scales of their own:

    e = P(what the prompt asks for)
    s = 3/4 exp(-E / 25) + 1/4 max(0, 1 - 4 rmse)

    E      identity error of `masactrl.puppets.measured`, in CIELAB units
    rmse   of the background, outside both animals, values in [0, 1]

Elsewhere CLIP compares picture and prompt, DINO picture and picture, by cosines whose scales depend
on the picture. So both are laid between doing nothing and the prompt alone (no control):

    e = (clip(y, P) - clip(x, P)) / (max_y clip(y, P) - clip(x, P))
    s = (dino(y, x) - dino(y0, x)) / (1 - dino(y0, x))                           cut to [0, 1]

    x, y, y0   source, edit, edit without control;   P  target prompt
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from masactrl.errors import ConfigError, ModelNotFound
from masactrl.models.presets import PUPPETS
from masactrl.pictures.files import at_home
from masactrl.pictures.images import image_to_tensor
from masactrl.puppets.captions import parse
from masactrl.puppets.identity import identity
from masactrl.puppets.inspector import QUESTIONS, Inspector
from masactrl.puppets.judging import background_psnr

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from PIL import Image

    from masactrl.models import LoadedModel

__all__ = [
    "CLIP",
    "DINO",
    "InspectorScorer",
    "PairScorer",
    "Score",
    "Scorer",
    "Trial",
    "load_scorer",
]

CLIP = "openai/clip-vit-large-patch14"
"""Reads pictures and prompts where nothing else is named."""

DINO = "facebook/dinov2-small"
"""Compares subjects where nothing else is named."""

_CLIP_MEAN, _CLIP_SPREAD = (0.4815, 0.4578, 0.4082), (0.2686, 0.2613, 0.2758)
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ASKED = ("action", "species", "facing", "place")
_BACKGROUND = 0.25  # weight of the background in what was kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be judged; all pictures have one size.

    Attributes:
        source: the picture whose subject is to be kept.
        uncontrolled: the edit without control.
        prompt: what the edit is to show.
        candidates: the edits.
    """

    source: Image.Image
    uncontrolled: Image.Image
    prompt: str
    candidates: tuple[Image.Image, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One candidate's score; both shares in [0, 1], higher is better.

    Attributes:
        edit: how far the edit was done.
        subject: how far the subject was kept.
        words: the figures behind, for people.
    """

    edit: float
    subject: float
    words: str = ""

    @property
    def total(self) -> float:
        """The harmonic mean of both, the equation at the head of this file."""
        both = self.edit + self.subject
        return 2 * self.edit * self.subject / both if both > 0 else 0.0


class Scorer(Protocol):
    """Judges edits."""

    def score(self, trial: Trial) -> tuple[Score, ...]:
        """Return one score per candidate, in order."""
        ...


class InspectorScorer:
    """Judges pictures of the puppet world.

    What the prompt asks for is its action; where it names none, the mean over what it does name.
    """

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    def score(self, trial: Trial) -> tuple[Score, ...]:
        """Return one score per candidate, in order.

        Raises:
            ConfigError: the prompt names nothing of the puppet world.
        """
        asked = _asked(trial.prompt)
        source, pictures = _tensors([trial.source]), _tensors(trial.candidates)
        was, seen = self._inspector.read(source), self._inspector.read(pictures)
        odds = [
            seen.probabilities[question][:, QUESTIONS[question].index(value)]
            for question, value in asked.items()
        ]
        done = torch.stack(odds).mean(0)
        errors = identity(was, seen).error
        animals = torch.maximum(was.mask, seen.mask)
        decibels = background_psnr(source.expand_as(pictures), pictures, animals)
        ground = (1 - 4 * 10 ** (-decibels / 20)).clamp(min=0)
        kept = (1 - _BACKGROUND) * torch.exp(-errors / 25) + _BACKGROUND * ground
        named = " and ".join(asked.values())
        return tuple(
            Score(
                edit=float(done[k]),
                subject=float(kept[k]),
                words=f"{named} with probability {done[k]:.2f}, identity error {errors[k]:.1f}, "
                f"background {decibels[k]:.1f} dB",
            )
            for k in range(len(trial.candidates))
        )


class PairScorer:
    """Judges any pictures with CLIP for the prompt and DINO for the subject.

    Args:
        clip: a `CLIPModel` of transformers.
        tokenizer: its tokenizer.
        dino: a vision transformer of transformers, whose first token stands for the picture.
        named: options of `masactrl edit` -> names of these models, without folders; for recipes.
    """

    def __init__(
        self, clip: Any, tokenizer: Any, dino: Any, *, named: Mapping[str, str] | None = None
    ) -> None:
        self._clip, self._tokenizer, self._dino = clip, tokenizer, dino
        self.named = dict(named or {})

    @torch.no_grad()
    def score(self, trial: Trial) -> tuple[Score, ...]:
        """Return one score per candidate, in order."""
        # source, without control, candidates
        pictures = _tensors([trial.source, trial.uncontrolled, *trial.candidates])
        said, alike = self._to_prompt(pictures, trial.prompt), self._to_first(pictures)
        span, room = said[1:].max() - said[0], 1 - alike[1]
        # Nothing nearer to the prompt than the source: no edit was done. An uncontrolled picture
        # that is the source itself: whatever is as near kept all.
        done = (said[2:] - said[0]) / span if span > 1e-6 else torch.zeros_like(said[2:])
        kept = (alike[2:] - alike[1]) / room if room > 1e-6 else (alike[2:] >= alike[1]).float()
        return tuple(
            Score(
                edit=float(done[k].clamp(0, 1)),
                subject=float(kept[k].clamp(0, 1)),
                words=f"likeness to the prompt {said[2 + k]:.3f} (source {said[0]:.3f}), "
                f"to the source {alike[2 + k]:.3f} (no control {alike[1]:.3f})",
            )
            for k in range(len(trial.candidates))
        )

    def _to_prompt(self, pictures: Tensor, prompt: str) -> Tensor:
        """(n,) cosines of pictures and prompt."""
        device = self._clip.device
        side = int(self._clip.config.vision_config.image_size)
        words = self._tokenizer([prompt], truncation=True, return_tensors="pt").to(device)
        text = _plain(self._clip.get_text_features(**words))
        seen = _prepared(pictures, side, _CLIP_MEAN, _CLIP_SPREAD).to(device, self._clip.dtype)
        image = _plain(self._clip.get_image_features(pixel_values=seen))
        return F.cosine_similarity(image.float(), text.float()).cpu()

    def _to_first(self, pictures: Tensor) -> Tensor:
        """(n,) cosines of all pictures and the first."""
        side = int(self._dino.config.image_size)
        seen = _prepared(pictures, side, _MEAN, _SPREAD).to(self._dino.device, self._dino.dtype)
        first = self._dino(pixel_values=seen).last_hidden_state[:, 0].float()
        return F.cosine_similarity(first, first[:1]).cpu()


def load_scorer(model: LoadedModel, *, clip: str | None = None, dino: str | None = None) -> Scorer:
    """Return who judges a model's pictures: the inspector the embedded one's, else CLIP and DINO.

    Args:
        model: what made the pictures; CLIP and DINO run on its device.
        clip: Hub id or folder of a CLIP model; None is `CLIP`.
        dino: Hub id or folder of a DINO or DINOv2 model; None is `DINO`.

    Raises:
        ModelNotFound: a model cannot be had; says what to do.
        ConfigError: models are named for the embedded model, which has its own inspector.
    """
    if model.family in PUPPETS:
        if clip is not None or dino is not None:
            raise ConfigError(
                "Pictures of the embedded model are judged by its inspector; leave out the names "
                "of CLIP and DINO."
            )
        return InspectorScorer(Inspector.load())
    from transformers import AutoModel, CLIPModel, CLIPTokenizer

    device = model.pipeline._execution_device
    named = clip or CLIP
    tokenizer = _loaded("CLIP", named, CLIPTokenizer)
    reader = _loaded("CLIP", named, CLIPModel, use_safetensors=True)
    comparer = _loaded("DINO", dino or DINO, AutoModel, use_safetensors=True)
    if not hasattr(comparer.config, "image_size"):
        raise ModelNotFound(f"{dino or DINO} is no vision transformer; give a DINO model.")
    given = {"judge_clip": clip, "judge_dino": dino}
    told = {option: _told(name) for option, name in given.items() if name is not None}
    return PairScorer(reader.eval().to(device), tokenizer, comparer.eval().to(device), named=told)


def _told(name: str) -> str:
    """Return the Hub id, or of a folder its name: a recipe holds no path."""
    folder = at_home(name)
    return folder.resolve().name if folder.exists() else name


def _loaded(kind: str, name: str, of: Any, **options: Any) -> Any:
    try:
        return of.from_pretrained(name, **options)
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        raise ModelNotFound(
            f"The {kind} model {name!r} that judges edits cannot be read ({reason}); connect once, "
            "give the Hub id or folder of another one, or choose S and L yourself with a sweep."
        ) from error


def _asked(prompt: str) -> dict[str, str]:
    """What the inspector is asked about a prompt: its action, else all that it names."""
    said = parse(prompt)
    named = {name: str(value) for name in _ASKED if (value := getattr(said, name)) is not None}
    if not named:
        raise ConfigError(
            f"The prompt {prompt!r} names nothing that the inspector knows, so it cannot say "
            "whether the edit was done; name an action, or choose S and L yourself with a sweep."
        )
    return {"action": named["action"]} if "action" in named else named


def _tensors(pictures: Sequence[Image.Image]) -> Tensor:
    """(n, 3, h, w) in [0, 1]."""
    return torch.stack([image_to_tensor(picture, signed=False) for picture in pictures])


def _prepared(
    pictures: Tensor, side: int, mean: tuple[float, ...], spread: tuple[float, ...]
) -> Tensor:
    """Pictures squeezed to a square and normalised; nothing is cut off, as a crop would."""
    square = F.interpolate(pictures, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
    m, s = (torch.tensor(one, dtype=torch.float32, device="cpu") for one in (mean, spread))
    return (square - m[:, None, None]) / s[:, None, None]


def _plain(features: Any) -> Tensor:
    tensor: Tensor = features if isinstance(features, Tensor) else features.pooler_output
    return tensor
