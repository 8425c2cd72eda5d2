"""Attach a control to a pipeline for the length of a `with` block, and leave it as it was."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from masactrl.attention.hooks import SelfAttentionHook
from masactrl.attention.joint import JointAttentionHook, Turn
from masactrl.attention.joint_masking import JointWordMasker
from masactrl.attention.layers import unwrap
from masactrl.attention.masking import GivenMasker, Masker, WordMasker
from masactrl.attention.masks import GivenMasks, WordMasks
from masactrl.attention.matching import Matcher
from masactrl.attention.networks import find_layers, network_of
from masactrl.attention.observing import observed
from masactrl.attention.positions import Positions, damping_of
from masactrl.attention.schedule import Schedule
from masactrl.attention.session import OnUntouched, Session
from masactrl.attention.support import check_layers
from masactrl.errors import ConfigError, RowsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import DiffusionPipeline
    from diffusers.hooks.hooks import ModelHook
    from torch import nn

    from masactrl.attention.call import Control
    from masactrl.attention.features import SourceFeatures
    from masactrl.attention.networks import Network
    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows

__all__ = ["attach"]


@contextmanager
def attach(
    pipeline: DiffusionPipeline,
    control: Control | None,
    *,
    rows: Rows,
    schedule: Schedule,
    masks: GivenMasks | WordMasks | None = None,
    source: SourceFeatures | None = None,
    record: SourceFeatures | None = None,
    on_untouched: OnUntouched = "raise",
    own_attention: bool = True,
    positions: Positions | None = None,
) -> Iterator[Attached]:
    """Run `control` on the scheduled self-attention layers of `pipeline` inside the `with` block.

    `rows` says which image reads which, `masks` marks their foregrounds, `source` provides recorded
    sources, `record` collects this run's hidden states. With `control=None` the layers run as they
    are. On leaving, also by an exception, every hook is taken out and the pipeline computes exactly
    what it did before. `own_attention` concerns joint attention (SD3, FLUX) alone: a control that
    only ever calls the layer once, on the whole batch and another context of the same length, does
    not need it, and leaves processors with more than attention in them in place. `positions` says
    where keys that are read stand (rotary embeddings, FLUX).

    Raises `UnsupportedPipeline`, `ScheduleError`, `RowsError`, `MaskError`, `PromptError` or
    `ConfigError` before anything is changed, and `ControlNotApplied` when the latest run ended
    without the control having acted (a warning with `on_untouched="warn"`).
    """
    family, network = network_of(pipeline)
    everywhere = find_layers(network)
    layers = schedule.resolve_layers(everywhere)
    check_layers(layers)
    _check_cache(rows, source)
    positions = _checked(positions, pipeline)
    matcher: Matcher | None = None
    if layers and positions.policy == "matched":
        number = len(everywhere) // 2 if positions.layer is None else positions.layer
        (layer,) = Schedule(layers=(number,)).resolve_layers(everywhere)
        matcher = Matcher(layer, rows, source=source, record=record)
    masker: Masker | None = None
    if layers and isinstance(masks, GivenMasks) and record is None:
        masker = GivenMasker(masks, rows)
    elif layers and isinstance(masks, WordMasks) and family.joint:
        masker = JointWordMasker(
            masks,
            pipeline=pipeline,
            family=family,
            rows=rows,
            layers=layers,
            source=source,
            record=record,
        )
    elif layers and isinstance(masks, WordMasks):
        masker = WordMasker(
            masks,
            pipeline=pipeline,
            rows=rows,
            layers=everywhere,
            controlled=layers,
            source=source,
            record=record,
        )
    session = Session(
        pipeline,
        control,
        rows=rows,
        schedule=schedule,
        layers=layers,
        masker=masker,
        source=source,
        record=record,
        own=own_attention or any(len(entry) > 1 for entry in rows.reads),
        turn=_turn(positions, family, network, matcher),
        matcher=matcher,
    )
    hooks: list[tuple[nn.Module, ModelHook]] = []
    for layer, part, hook in session.hooks:
        _refuse_second(layer.name, layer.parts[part])
        hooks.append((layer.parts[part], hook))
        hooks += hook.companions if isinstance(hook, JointAttentionHook) else []
    hooks += [] if matcher is None else [(matcher.layer.module, matcher.hook)]
    hooks += [] if masker is None else masker.hooks()
    try:
        with observed(pipeline, session, hooks):
            yield session.attached
            session.conclude(on_untouched)
    finally:
        session.close()


def _checked(positions: Positions | None, pipeline: DiffusionPipeline) -> Positions:
    """The policy, if the pipeline's family has it."""
    chosen = positions or Positions()
    family, _ = network_of(pipeline)
    if chosen.policy not in family.policies:
        why = (
            "has learned positions, added once before its first layer"
            if family.joint
            else "has no positions in its attention"
        )
        raise ConfigError(
            f"positions={chosen.policy!r} was asked for, but {type(pipeline).__name__} {why}; "
            "accepted is 'same'. The other policies are for rotary embeddings, as in FLUX."
        )
    return chosen


def _turn(
    positions: Positions, family: Network, network: nn.Module, matcher: Matcher | None
) -> Turn | None:
    if positions.policy == "same" or family.rotary is None:
        return None
    theta, axes = family.rotary(unwrap(network))
    return Turn(positions, damping_of(positions, axes, theta), matcher)


def _refuse_second(name: str, attention: nn.Module) -> None:
    registry: Any = getattr(attention, "_diffusers_hook", None)
    if registry is not None and any(
        isinstance(hook, SelfAttentionHook) for hook in registry.hooks.values()
    ):
        raise ConfigError(
            f"Another control is attached to {name}. Leave its with block first, or choose "
            "layers that the two do not share."
        )


def _check_cache(rows: Rows, source: SourceFeatures | None) -> None:
    held = 0 if source is None else source.images
    if rows.cached and source is None:
        raise RowsError(
            f"The rows read {rows.cached} recorded sources but no recording was given. "
            "Pass the SourceFeatures that record(...) filled."
        )
    if source is not None and rows.cached != held:
        raise RowsError(
            f"The recording holds {held} sources but the rows expect {rows.cached}. "
            "Build the rows with Rows.from_cache(targets=..., sources=...)."
        )
