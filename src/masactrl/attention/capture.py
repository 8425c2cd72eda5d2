"""Keep what the targets of mutual self-attention look with and at, while a run is made.

The layers run as they are. What is kept comes from the control at work in each layer: who reads
whom, recorded sources, masks. So one capture serves joint and cached runs.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from masactrl.attention.hooks import SelfAttentionHook
from masactrl.attention.layers import AttentionLayer, check_tokens
from masactrl.attention.networks import find_layers
from masactrl.attention.observing import observed
from masactrl.attention.support import denoiser_of
from masactrl.attention.view import AttentionRecord, QueryKeys, listed
from masactrl.errors import ControlNotApplied, RowsError, ScheduleError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from diffusers.models.attention_processor import Attention

    from masactrl.attention.networks import DenoiserCall
    from masactrl.attention.rows import BatchRows
    from masactrl.attention.steps import StepInfo

__all__ = ["capture"]


@contextmanager
def capture(
    pipeline: DiffusionPipeline,
    *,
    steps: Collection[int] | None = None,
    layers: Collection[int] | None = None,
    targets: int | None = None,
    own: bool = False,
) -> Iterator[AttentionRecord]:
    """Keep what targets look with and at while mutual self-attention runs inside the `with` block.

    The control itself is attached by whoever makes the pictures, before or inside the block; the
    run is not changed. `steps` and `layers` are the ones to keep, among the controlled ones (None:
    all; at 512x512 one step of Stable Diffusion's six default layers takes about 45 MiB in half
    precision). `targets` says how many targets the run has, where their guidance branches lie side
    by side (None: as many as there are controlled rows). `own` says that targets read themselves as
    well (the union form). A second run in the block replaces what was kept.

    Raises `ControlNotApplied` on leaving when no control was at work in these layers, and
    `ScheduleError` when one of the named steps or layers was not controlled.
    """
    every = find_layers(denoiser_of(pipeline))
    record = AttentionRecord()
    session = _Capture(record, steps=steps, targets=targets, own=own)
    with ExitStack() as stack:
        for layer in (one for one in every if layers is None or one.index in layers):
            # Torch's own hooks run around the whole call, whatever was installed before or is
            # installed later, so they see the layer's input before the control changes the call.
            see = partial(session.see, layer)
            handle = layer.module.register_forward_hook(see, with_kwargs=True)
            stack.callback(handle.remove)
        stack.enter_context(observed(pipeline, session))
        yield record
        _conclude(record, steps, layers)


class _Capture:
    """The state of one capture: the call in progress."""

    def __init__(
        self,
        record: AttentionRecord,
        *,
        steps: Collection[int] | None,
        targets: int | None,
        own: bool,
    ) -> None:
        self._record = record
        self._steps, self._targets, self._own = steps, targets, own
        self._info: StepInfo | None = None
        self._latent = (0, 0)

    def before(self, info: StepInfo, call: DenoiserCall) -> None:
        """Note the step and the latents' size of the denoiser call that is about to run."""
        if info.new_run:
            self._record.clear()
        self._info, self._latent = info, call.size()

    def after(self) -> None:
        """Note that it is over."""
        self._info = None

    @torch.no_grad()
    def see(
        self,
        layer: AttentionLayer,
        module: Attention,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        _: Any,
    ) -> None:
        """Keep queries and keys of one layer call, if a control was at work in it."""
        info, control = self._info, _control_of(module)
        if info is None or control is None or control.rows is None:
            return
        if self._steps is not None and info.step not in self._steps:
            return
        hidden: Tensor = args[0] if args else kwargs["hidden_states"]
        reads = self._reads(control.rows)
        if reads:
            rows, columns = layer.grid(*self._latent)
            check_tokens(layer.name, hidden.shape[1], rows * columns, "this view needs")
            seen = self._kept(reads, layer.grid(*self._latent), module, hidden, control)
            self._record.keep(info.step, layer.index, seen)

    def _reads(self, rows: BatchRows) -> list[tuple[int, int, int]]:
        """(batch row, its bank row, bank row of its source) of every target."""
        first = (rows.branches - 1) * rows.images
        found: list[tuple[int, int, int]] = []
        for part in rows.parts:
            if len(part.sources) > 1:
                raise RowsError(
                    f"Targets of this run read {len(part.sources)} sources each; where they look "
                    "can be shown for runs with one source."
                )
            for (source,) in (part.sources,) if part.sources else ():
                numbers = zip(part.rows.tolist(), part.own.tolist(), source.tolist(), strict=True)
                found += [one for one in numbers if one[0] >= first]
        found.sort()
        count = self._targets or len(found)
        if found and len(found) % count:
            raise RowsError(
                f"The run has {len(found)} controlled rows, which is no multiple of the {count} "
                "targets that the capture was told of."
            )
        size = len(found) // count if found else 1
        return found[size - 1 :: size]  # of branches side by side the last is that of the prompt

    def _kept(
        self,
        reads: Sequence[tuple[int, int, int]],
        grid: tuple[int, int],
        module: Attention,
        hidden: Tensor,
        control: SelfAttentionHook,
    ) -> tuple[QueryKeys, ...]:
        layer: Any = module
        masks = None if control.used is None else control.used.mask.flatten(1).bool().cpu()
        keys: dict[tuple[int, ...], Tensor] = {}
        seen = []
        for row, own, source in reads:
            read = (source, own) if self._own else (source,)
            if read not in keys:
                bank = [_bank_row(hidden, control, number) for number in read]
                keys[read] = _heads(layer, layer.to_k(torch.cat(bank)[None]), layer.norm_k)
            mask = key_mask = None
            if masks is not None:
                mask = masks[own % masks.shape[0]]
                key_mask = torch.cat([masks[number % masks.shape[0]] for number in read])
            seen.append(
                QueryKeys(
                    grid=grid,
                    queries=_heads(layer, layer.to_q(hidden[row : row + 1]), layer.norm_q),
                    keys=keys[read],
                    mask=mask,
                    key_mask=key_mask,
                )
            )
        return tuple(seen)


def _control_of(module: Attention) -> SelfAttentionHook | None:
    """The control at work in a layer during the call in progress, or None."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    for hook in () if registry is None else registry.hooks.values():
        if isinstance(hook, SelfAttentionHook) and hook.active and hook.control is not None:
            return hook
    return None


def _bank_row(hidden: Tensor, control: SelfAttentionHook, number: int) -> Tensor:
    """Hidden states (tokens, channels) of one row of the bank: of the batch, or recorded."""
    if control.rows is None or control.source is None:
        return hidden[number]
    images = control.rows.images
    branch, image = divmod(number, images + control.source.shape[1])
    if image < images:
        return hidden[branch * images + image]
    return control.source[branch, image - images].to(hidden)


def _heads(layer: Any, projected: Tensor, norm: Any) -> Tensor:
    """(heads, tokens, d) on the CPU of a projection (1, tokens, heads d)."""
    split = projected.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
    heads: Tensor = split if norm is None else norm(split)
    return heads[0].detach().cpu()


def _conclude(
    record: AttentionRecord, steps: Collection[int] | None, layers: Collection[int] | None
) -> None:
    if not record.targets:
        raise ControlNotApplied(
            "Nothing was captured: no layer of the latest run was under mutual self-attention at "
            "the steps and layers to be captured (or the network is compiled, which leaves out "
            "hooks of this kind). Run a control of strength above 0 inside the block, and capture "
            "where it acts."
        )
    for name, asked, found in (("step", steps, record.steps), ("layer", layers, record.layers)):
        missing = sorted(set(asked or ()) - set(found))
        if missing:
            raise ScheduleError(
                f"{name} {missing[0]} was to be captured, but the control did not act there; it "
                f"acted at {name}s {listed(found)} of those that were asked for."
            )
