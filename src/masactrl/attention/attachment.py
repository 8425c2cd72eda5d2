"""Attach a control to a pipeline for the length of a `with` block, and leave it as it was."""

from __future__ import annotations

import uuid
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from masactrl.attention.hooks import DenoiserHook, SelfAttentionHook, install
from masactrl.attention.layers import Site, find_sites
from masactrl.attention.masking import GivenMasker, Masker, WordMasker
from masactrl.attention.masks import GivenMasks, WordMasks
from masactrl.attention.session import OnUntouched, Session
from masactrl.attention.support import check_layers, denoiser_of
from masactrl.errors import ConfigError, RowsError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from diffusers import DiffusionPipeline

    from masactrl.attention.call import Control
    from masactrl.attention.features import SourceCache
    from masactrl.attention.report import Attached
    from masactrl.attention.rows import Rows
    from masactrl.attention.schedule import Schedule

__all__ = ["attach"]


@contextmanager
def attach(
    pipeline: DiffusionPipeline,
    control: Control | None,
    *,
    rows: Rows,
    schedule: Schedule,
    masks: GivenMasks | WordMasks | None = None,
    source: SourceCache | None = None,
    record: SourceCache | None = None,
    on_untouched: OnUntouched = "raise",
) -> Iterator[Attached]:
    """Run `control` on the scheduled self-attention layers of `pipeline` inside the `with` block.

    `rows` says which image reads which, `masks` marks their foregrounds, `source` provides recorded
    sources, `record` collects this run's hidden states. With `control=None` the layers run as they
    are. On leaving, also by an exception, every hook is taken out and the pipeline computes exactly
    what it did before.

    Raises `UnsupportedPipeline`, `ScheduleError`, `RowsError`, `MaskError`, `PromptError` or
    `ConfigError` before anything is changed, and `ControlNotApplied` when the latest run ended
    without the control having acted (a warning with `on_untouched="warn"`).
    """
    unet = denoiser_of(pipeline)
    everywhere = find_sites(unet)
    sites = schedule.resolve_layers(everywhere)
    check_layers(sites)
    _check_cache(rows, source)
    masker: Masker | None = None
    if sites and isinstance(masks, GivenMasks) and record is None:
        masker = GivenMasker(masks, rows)
    elif sites and isinstance(masks, WordMasks):
        masker = WordMasker(
            masks,
            pipeline=pipeline,
            rows=rows,
            sites=everywhere,
            controlled=sites,
            source=source,
            record=record,
        )
    session = Session(
        pipeline,
        control,
        rows=rows,
        schedule=schedule,
        sites=sites,
        masker=masker,
        source=source,
        record=record,
    )
    name = f"masactrl-{uuid.uuid4().hex}"
    with ExitStack() as stack:
        stack.callback(session.close)
        for site, hook in session.hooks:
            _refuse_second(site)
            stack.callback(install(site.module, hook, name).remove)
        for module, reader in () if masker is None else masker.hooks():
            stack.callback(install(module, reader, name).remove)
        denoiser = DenoiserHook(session.before, session.after)
        stack.callback(install(unet, denoiser, name).remove)
        yield session.attached
        session.conclude(on_untouched)


def _refuse_second(site: Site) -> None:
    registry: Any = getattr(site.module, "_diffusers_hook", None)
    if registry is not None and any(
        isinstance(hook, SelfAttentionHook) for hook in registry.hooks.values()
    ):
        raise ConfigError(
            f"Another control is attached to {site.name}. Leave its with block first, or choose "
            "layers that the two do not share."
        )


def _check_cache(rows: Rows, source: SourceCache | None) -> None:
    held = 0 if source is None else source.images
    if rows.cached and source is None:
        raise RowsError(
            f"The rows read {rows.cached} recorded sources but no recording was given. "
            "Pass the SourceCache that record(...) filled."
        )
    if source is not None and rows.cached != held:
        raise RowsError(
            f"The recording holds {held} sources but the rows expect {rows.cached}. "
            "Build the rows with Rows.from_cache(targets=..., sources=...)."
        )
