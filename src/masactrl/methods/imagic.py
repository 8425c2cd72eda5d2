r"""Imagic (Kawar et al., CVPR 2023): fit words to the picture, the network to both, go part way.

    A   e_opt = argmin_e  E_{t, eps} || eps - eps_theta(z_t, e) ||^2             begun at e_tgt
    B   theta'= argmin_th E_{t, eps} || eps - eps_th(z_t, e_opt) ||^2            begun at theta
    C   e     = eta e_tgt + (1 - eta) e_opt,   targets are made with theta' and e from new noise

    z_t     sqrt(a_t) z_0^s + sqrt(1 - a_t) eps, t uniform
    e_tgt   the target prompt's encoding (words, width); its pooled vector (SDXL) stays
    eta     in [0, 1]: 0 gives the source back, 1 is the fitted network with the target's words

It is the one method here that trains: every target costs `text_steps` + `tuning_steps` steps
forwards and backwards and, while it is made, a copy of the network's weights. Afterwards the
network is what it was, to the bit.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from masactrl.attention.control_hooks import HookSession, PlainHook, hooked
from masactrl.attention.support import denoiser_of
from masactrl.errors import ConfigError, ControlNotApplied, UnsupportedPipeline
from masactrl.methods.method import Parts
from masactrl.methods.starts import FromSource
from masactrl.models.denoiser import Denoiser
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from diffusers import DiffusionPipeline

    from masactrl.attention.rows import Rows
    from masactrl.methods.starts import OfSource
    from masactrl.models.denoiser import Text

__all__ = ["Imagic"]


class _FreshNoise:
    """Targets begin as pure noise, with the first step."""

    def first_step(self, steps: int) -> int:
        """0 of any number of steps."""
        del steps
        return 0

    def latents(self, z_0: Tensor, noise: Tensor, levels: tuple[float, float]) -> Tensor:
        """The noise."""
        del levels
        return noise.to(z_0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Imagic(FromSource):
    """Imagic; the usual numbers are for the embedded model.

    For Stable Diffusion its users take text_steps=500, text_rate=1e-3, tuning_steps=1000,
    tuning_rate=5e-7 to 2e-6.

    Attributes:
        interpolation: eta, 0 to 1.
        text_steps, tuning_steps: of stage A and B, at least 1.
        text_rate, tuning_rate: of Adam there, above 0.

    Raises:
        ConfigError: a value is out of its range.
    """

    interpolation: float = 0.7
    text_steps: int = 100
    text_rate: float = 1e-2
    tuning_steps: int = 100
    tuning_rate: float = 1e-4
    name: ClassVar[str] = "imagic"

    def __post_init__(self) -> None:
        settle(self)
        if not 0.0 <= self.interpolation <= 1.0:
            raise ConfigError(f"interpolation={self.interpolation} was given; accepted is 0 to 1.")
        for name in ("text_steps", "tuning_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} was given; use 1 or more.")
        for name in ("text_rate", "tuning_rate"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ConfigError(
                    f"{name}={getattr(self, name)} was given; accepted is between 0 and 1."
                )

    @property
    def start(self) -> _FreshNoise:
        """Targets start from noise; what they have of the source is in words and weights."""
        return _FreshNoise()

    @property
    def fitting(self) -> int:
        """Rows through the U-Net before a target begins; a step back counts like two forth."""
        return 3 * (self.text_steps + self.tuning_steps)

    @contextmanager
    def attached(
        self, of: OfSource, pipeline: DiffusionPipeline, rows: Rows, prompts: tuple[str, ...]
    ) -> Iterator[Parts]:
        """Fit (the long part), then make targets with fitted words and weights inside the block.

        Raises `UnsupportedPipeline` for networks that cannot be trained here, and
        `ControlNotApplied` when the network was not called.
        """
        unet = denoiser_of(pipeline)
        fitted = [
            _fit(pipeline, unet, of.z_0[k : k + 1], prompt, self, of.seed)
            for k, prompt in enumerate(prompts)
        ]
        hook = _FittedHook(fitted)
        with hooked(pipeline, HookSession(rows=rows), [(unet, hook)]) as attached:
            yield Parts(by_name={"imagic": attached})
        if not hook.called:
            raise ControlNotApplied(
                "Imagic was attached, but the pipeline's denoiser was never called. Call this very "
                "pipeline inside the with block."
            )


@dataclass(frozen=True, slots=True, eq=False)
class _Fitted:
    """What was fitted for one image: e (1, words, width), and the network's floating weights."""

    words: Tensor
    weights: list[Tensor]


def _fit(
    pipeline: DiffusionPipeline,
    unet: nn.Module,
    z_0: Tensor,
    prompt: str,
    settings: Imagic,
    seed: int,
) -> _Fitted:
    """Stages A and B for one source (1, c, h, w)."""
    weights = _trainable(unet)
    denoiser, scheduler = Denoiser(pipeline), pipeline.scheduler
    text, dtype = denoiser.encode_text([prompt]), denoiser.dtype
    loss = _Loss(denoiser, scheduler, z_0.float(), torch.Generator("cpu").manual_seed(seed))
    # The fused kernel's backward pass is three times slower on a CPU.
    with _training(weights), torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        pooled = None if text.pooled is None else text.pooled.float()
        text = replace(text, hidden=text.hidden.float(), pooled=pooled)
        wanted = text.hidden.clone()
        words = wanted.clone().requires_grad_(True)
        _adam([words], lambda: loss(text, words), settings.text_rate, settings.text_steps)
        found = words.detach()
        _adam(weights, lambda: loss(text, found), settings.tuning_rate, settings.tuning_steps)
        eta = settings.interpolation
        mixed = eta * wanted + (1 - eta) * found
        return _Fitted(mixed.to(dtype), [one.data.to(dtype) for one in weights])


def _trainable(unet: nn.Module) -> list[nn.Parameter]:
    """The weights to train."""
    found = list(unet.parameters())
    bad = [one for one in found if one.device.type == "meta" or not one.is_floating_point()]
    if bad or not found:
        raise UnsupportedPipeline(
            "Imagic trains the U-Net, whose weights here are offloaded or quantised; load the "
            "model without --offload and in float32, float16 or bfloat16."
        )
    return found


class _Loss:
    """E_{t, eps} || target - network(z_t, e) ||^2, one draw a call."""

    def __init__(
        self, denoiser: Denoiser, scheduler: Any, z_0: Tensor, generator: torch.Generator
    ) -> None:
        self._denoiser, self._z_0, self._generator = denoiser, z_0, generator
        self._alphas = scheduler.alphas_cumprod
        self._kind = scheduler.config.prediction_type

    def __call__(self, text: Text, words: Tensor) -> Tensor:
        """The loss with these words (1, words, width)."""
        t = int(torch.randint(len(self._alphas), (), generator=self._generator, device="cpu"))
        eps = torch.randn(
            self._z_0.shape, generator=self._generator, dtype=torch.float32, device="cpu"
        ).to(self._z_0.device)
        a = float(self._alphas[t])
        signal, rest = a**0.5, (1 - a) ** 0.5
        targets = {
            "epsilon": eps,
            "sample": self._z_0,
            "v_prediction": signal * eps - rest * self._z_0,
        }
        z_t = signal * self._z_0 + rest * eps
        output = self._denoiser.predict(z_t, t, text.with_hidden(words))
        loss: Tensor = (output - targets[self._kind]).square().mean()
        return loss


@contextmanager
def _training(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let copies of the weights, in float32, be trained in their place; put them back after."""
    kept = [(one, one.data, one.requires_grad, one.grad) for one in weights]
    try:
        for one in weights:
            one.grad = None
            one.data = one.data.detach().clone().float()
            one.requires_grad_(True)
        yield
    finally:
        for one, data, wanted, grad in kept:
            one.grad = None
            one.data = data
            one.requires_grad_(wanted)
            one.grad = grad


def _adam(values: Sequence[Tensor], loss: Callable[[], Tensor], rate: float, steps: int) -> None:
    """Minimise by Adam, changing `values`."""
    adam = torch.optim.Adam(list(values), lr=rate)
    for _ in range(steps):
        # Not backward(): that would fill the gradients of what is not asked for, too.
        found = torch.autograd.grad(loss(), list(values), allow_unused=True)
        for one, grad in zip(values, found, strict=True):
            one.grad = grad
        adam.step()
        adam.zero_grad()


class _FittedHook(PlainHook):
    """Runs the images of a batch one by one, each with its own words and weights."""

    def __init__(self, fitted: Sequence[_Fitted]) -> None:
        super().__init__()
        self._fitted = fitted
        self.called = False

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        """The network's output, rows in the order of the batch."""
        self.called = True
        chain: Any = self.fn_ref
        forward = chain.original_forward
        batch = (args[0] if args else kwargs["sample"]).shape[0]
        images = len(self._fitted)
        weights = list(module.parameters())
        kept = [one.data for one in weights]
        parts: list[Any] = []
        try:
            for image, fitted in enumerate(self._fitted):
                rows = torch.arange(image, batch, images)
                said = _rows_of((args, kwargs), batch, rows)
                _speak(said, fitted.words)
                for one, own in zip(weights, fitted.weights, strict=True):
                    one.data = own
                parts.append((rows, forward(*said[0], **said[1])))
        finally:
            for one, own in zip(weights, kept, strict=True):
                one.data = own
        return _joined(parts, batch)


def _rows_of(values: Any, batch: int, rows: Tensor) -> Any:
    """The same arguments with these rows of every tensor that has one row per image and branch."""
    if isinstance(values, Tensor):
        whole = values.ndim > 0 and values.shape[0] == batch
        return values[rows.to(values.device)] if whole else values
    if isinstance(values, dict):
        return {name: _rows_of(one, batch, rows) for name, one in values.items()}
    if isinstance(values, tuple | list):
        return [_rows_of(one, batch, rows) for one in values]
    return values


def _speak(said: Any, words: Tensor) -> None:
    """Put the fitted words into the branch of the prompts, the last one."""
    args, kwargs = said
    holder, key = (args, 2) if len(args) > 2 else (kwargs, "encoder_hidden_states")
    hidden = holder[key].clone()
    hidden[-1] = words[0].to(hidden)
    holder[key] = hidden


def _joined(parts: Sequence[tuple[Tensor, Any]], batch: int) -> Any:
    """The outputs put back into the order of the batch: of the kind that the network returns."""
    plain = isinstance(parts[0][1], tuple)
    first: Tensor = parts[0][1][0]
    whole = first.new_empty((batch, *first.shape[1:]))
    for rows, output in parts:
        whole[rows.to(whole.device)] = output[0]
    return (whole,) if plain else type(parts[0][1])(sample=whole)
