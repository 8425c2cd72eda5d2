"""The hooks that carry a control into a network, and their exact installation and removal.

The seam is diffusers' `HookRegistry`: it survives attention slicing, new processors, LoRA and
IP-Adapter loading and recompiles under `torch.compile`, where processor wrappers are lost and
torch's own module hooks are ignored, both without a word. The layer's processor stays in place.

Flags are plain booleans set from outside the layer, so that a compiled network needs one graph
with control and one without, not one per step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor, nn

from masactrl.attention.call import Control, LayerCall
from masactrl.attention.layers import check_tokens
from masactrl.attention.masks import key_bias
from masactrl.errors import ConfigError, ControlNotApplied, UnsupportedPipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from masactrl.attention.masking import MaskUse
    from masactrl.attention.rows import BatchRows

__all__ = [
    "Installed",
    "SelfAttentionHook",
    "bank_of",
    "install",
    "split_call",
]


class Installed:
    """One hook on one module, and the way back."""

    def __init__(self, module: nn.Module, hook: ModelHook, name: str) -> None:
        self._module, self._name = module, name
        own = vars(module)
        self._had_forward = "forward" in own
        self._had_registry = "_diffusers_hook" in own
        # The wrapper of torch.compile hands attributes through to the module it wraps; a registry
        # of its own keeps the hook outside the compiled graph.
        compiled = "_orig_mod" in vars(module).get("_modules", {})
        self._registry: Any
        if compiled:
            self._registry = HookRegistry(module)
        else:
            self._registry = HookRegistry.check_if_exists_or_initialize(module)
        self._stored = not compiled
        wrapper, target = _offload_wrapper(module), cast("Any", module)
        if wrapper is not None:
            target.forward = target._old_forward
        self._registry.register_hook(hook, name)
        self._installed = module.forward
        if wrapper is not None:
            target._old_forward, target.forward = self._installed, wrapper

    def remove(self) -> None:
        """Take the hook out and leave every other hook, older or newer, as it is."""
        module: Any = self._module
        registry = self._registry
        if self._name not in registry.hooks:
            return
        position = registry._hook_order.index(self._name)
        later = registry._fn_refs[position + 1 :]
        replaced = later[0].forward if later and later[0].original_forward is not None else None
        outer = module.forward if module.forward is not self._installed and not later else None
        registry.remove_hook(self._name, recurse=False)
        if replaced is not None:
            # The registry points the next hook's slot at the plain forward, which would drop the
            # function that hook has put there.
            later[0].original_forward, later[0].forward = later[0].forward, replaced
        if outer is not None:
            # Somebody (accelerate's offload, as a rule) wrapped or replaced the forward since.
            if getattr(module, "_old_forward", None) is self._installed:
                module._old_forward = module.forward
            module.forward = outer
        self._tidy()

    def _tidy(self) -> None:
        module = self._module
        own = vars(module)
        current = own.get("forward")
        plain = getattr(current, "__func__", None) is type(module).forward
        if not self._had_forward and plain:
            del own["forward"]
        if self._stored and not self._had_registry and not self._registry.hooks:
            own.pop("_diffusers_hook", None)


def _offload_wrapper(module: nn.Module) -> Callable[..., Any] | None:
    """The outermost forward where it is accelerate's, or None.

    Pipelines with model offload take it off and put another one on after every call, which keeps
    what lies below it and drops what lies above.
    """
    own = vars(module)
    forward: Callable[..., Any] | None = own.get("forward")
    origin = getattr(getattr(forward, "func", None), "__module__", "")
    return forward if "_old_forward" in own and origin == "accelerate.hooks" else None


def install(module: nn.Module, hook: ModelHook, name: str) -> Installed:
    """Put `hook` on `module` under `name`; the result removes it again."""
    return Installed(module, hook, name)


class SelfAttentionHook(ModelHook):
    """Puts a control between a self-attention layer and its caller.

    The session calls `prepare` (and sets `source`, where sources are recorded) before every
    denoiser call, `rest` after it, and reads `seen`, `recorded` and `used` (the masks) after it.
    `lost` is whether a call would come from a denoiser call that the session was not told of.
    """

    def __init__(self, layer: str, control: Control | None) -> None:
        super().__init__()
        self.layer = layer
        self.control = control
        self.active = False
        self.recording = False
        self.seen = False
        self.lost = True
        self.rows: BatchRows | None = None
        self.source: Tensor | None = None
        self.recorded: Tensor | None = None
        self.mask_at: Callable[[], MaskUse] | None = None
        self.used: MaskUse | None = None

    @property
    def replayable(self) -> bool:
        """Whether a call does nothing in Python that depends on more than its tensors' shapes."""
        told = self.control is None or getattr(self.control, "replayable", False)
        return bool(told) and self.mask_at is None

    def prepare(self, *, active: bool, rows: BatchRows | None, recording: bool) -> None:
        """Get ready for one denoiser call."""
        self.rest()
        self.active, self.rows, self.recording = active, rows, recording
        self.lost = False

    def rest(self) -> None:
        """Let the layer run as it is, and drop what was kept."""
        self.active = self.recording = self.seen = False
        self.lost = True
        self.source = self.recorded = self.used = None

    def new_forward(self, module: nn.Module, *args: object, **kwargs: object) -> object:
        """The layer's output under the control, or exactly the layer's own when idle."""
        # Looked up anew every time: the library rewires it when hooks below are removed.
        chain: Any = self.fn_ref
        forward: Callable[..., Any] = chain.original_forward
        if not self.active:
            if self.lost:
                raise ControlNotApplied(
                    f"{self.layer} runs under a control that was not told of the denoiser call: "
                    "another hook displaced it. Attach after every other change to the pipeline "
                    "and leave the with block before undoing them."
                )
            return forward(*args, **kwargs)
        self.seen = True
        return self.controlled(forward, module, args, kwargs)

    def controlled(
        self,
        forward: Callable[..., Any],
        module: nn.Module,
        args: tuple[object, ...],
        kwargs: dict[str, object],
    ) -> object:
        """The layer's output in a call that is recorded or controlled."""
        hidden, options = split_call(self.layer, args, kwargs)
        if self.recording:
            self.recorded = hidden
        if self.control is None or self.rows is None:
            return forward(*args, **kwargs)

        scores = _score_dtype(module, hidden)

        def layer(
            queries: Tensor, context: Tensor | None = None, allowed: Tensor | None = None
        ) -> Tensor:
            bias = None if allowed is None else key_bias(allowed, scores)
            output: Tensor = forward(
                queries, encoder_hidden_states=context, attention_mask=bias, **options
            )
            return output

        return self.control(
            LayerCall(
                layer=layer,
                hidden=hidden,
                bank=bank_of(hidden, self.source, self.rows.branches),
                rows=self.rows,
                masks=self.masks(self.rows, hidden.shape[1]),
                name=self.layer,
            )
        )

    def masks(self, rows: BatchRows, tokens: int) -> Tensor | None:
        """The foregrounds (bank rows, tokens) that hold for this call, or None."""
        if self.mask_at is None:
            return None
        self.used = self.mask_at()
        masks = self.used.mask.flatten(1).repeat(rows.branches, 1)
        check_tokens(self.layer, tokens, masks.shape[1], "masks need")
        return masks


def _score_dtype(module: nn.Module, hidden: Tensor) -> torch.dtype:
    """The type in which the layer's processor adds a mask to its scores."""
    upcast = getattr(module, "upcast_attention", False)
    if upcast and not isinstance(getattr(module, "processor", None), AttnProcessor2_0):
        return torch.float32
    return hidden.dtype


def split_call(
    name: str, args: tuple[object, ...], kwargs: dict[str, object]
) -> tuple[Tensor, dict[str, object]]:
    """The hidden states and the options of a self-attention call that passes nothing else."""
    options = dict(kwargs)
    hidden: Any = args[0] if args else options.pop("hidden_states")
    inputs = ("encoder_hidden_states", "attention_mask")
    extra = [key for key in inputs if options.pop(key, None) is not None]
    if len(args) > 1 or extra:
        raise UnsupportedPipeline(
            f"The self-attention layer {name} was called with {', '.join(extra) or 'extra inputs'}"
            ", so its keys are not its own any more. Detach what passes it before attaching."
        )
    return hidden, options


def bank_of(hidden: Tensor, source: Tensor | None, branches: int) -> Tensor:
    """The hidden states that may be read: the batch, or each branch followed by its recording.

    `hidden` is (branches * images, tokens, channels), `source` (branches, sources, tokens,
    channels); returns (branches * (images + sources), tokens, channels).
    """
    if source is None:
        return hidden
    own = hidden.reshape(branches, -1, *hidden.shape[1:])
    if source.shape[0] != branches or source.shape[2:] != own.shape[2:]:
        raise ConfigError(
            f"The recording holds {source.shape[0]} guidance branches of {source.shape[2]} tokens, "
            f"this run has {branches} of {own.shape[2]}. Record the source at the same size and "
            "with guidance switched on or off as in this run."
        )
    return torch.cat([own, source.to(own)], dim=1).flatten(0, 1)
