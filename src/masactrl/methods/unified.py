r"""Unified attention control (InfEdit, Xu et al., CVPR 2024): rigid first, then mutual.

    t in the first int(tau_s N) steps     A(Q_s, K_s, V)        the source's structure
    afterwards                            A(Q, K_s, V_s)        mutual self-attention (MasaCtrl)
    cross-attention                       refinement of Prompt-to-Prompt, int(tau_c (N + 1)) steps

    Q, K, V        of the target;   Q_s, K_s, V_s  of its source, same layer, step and branch
    tau_s, tau_c   parts of the run: rigid self-attention (0.3) and cross-attention (0.7)

InfEdit carries a third, "layout" picture between source and target that takes the rigid control and
hands its queries to the target. Here the target is its own layout picture: first rigid, then
mutual. That needs no row the caller did not ask for.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from masactrl.attention.attachment import attach
from masactrl.attention.control_hooks import HookSession, hooked
from masactrl.attention.networks import find_layers
from masactrl.attention.schedule import Schedule
from masactrl.attention.support import denoiser_of
from masactrl.errors import ConfigError
from masactrl.methods.method import Parts, check_pairs, check_prompts
from masactrl.methods.mutual import mutual_self_attention
from masactrl.methods.prompt_to_prompt import PromptToPrompt, edited_words
from masactrl.methods.steps import first_steps
from masactrl.methods.structure import structure_index, values_of
from masactrl.settings.checks import settle

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from diffusers import DiffusionPipeline
    from torch import Tensor

    from masactrl.attention.call import LayerCall
    from masactrl.attention.rows import Rows

__all__ = ["Unified"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unified:
    """Rigid, then mutual control; raises `ConfigError` for values outside their range.

    `cross` is tau_c and `rigid` tau_s, both 0 (off) to below 1. The mutual control acts in layers
    from `start_layer` on, the rigid one in all.
    """

    cross: float = 0.7
    rigid: float = 0.3
    start_layer: int = 0
    name: ClassVar[str] = "unified"
    start: ClassVar[None] = None

    def __post_init__(self) -> None:
        settle(self)
        for field in ("cross", "rigid"):
            if not 0.0 <= getattr(self, field) < 1.0:
                raise ConfigError(
                    f"{field}={getattr(self, field)} was given; accepted is 0 (off) to below 1."
                )
        if self.start_layer < 0:
            raise ConfigError(f"start_layer={self.start_layer} was given; counting starts at 0.")

    @contextmanager
    def attach(
        self, pipeline: DiffusionPipeline, rows: Rows, *, prompts: Sequence[str] | None = None
    ) -> Iterator[Parts]:
        """Control `pipeline` inside the `with` block; yields the parts "cross" and "self".

        Raises what Prompt-to-Prompt and MasaCtrl raise.
        """
        check_pairs(self.name, rows)
        given = check_prompts(self.name, rows, prompts)
        words = PromptToPrompt(
            edit="refine", cross=self.cross, self_attention=0.0, as_published=True
        )
        layers = find_layers(denoiser_of(pipeline))
        mutual = {s.name for s in Schedule(start_layer=self.start_layer).resolve_layers(layers)}
        session = HookSession(rows=rows, steps=lambda t: first_steps(self.rigid, len(t)))
        with ExitStack() as stack:
            values = stack.enter_context(values_of(layers))

            def control(call: LayerCall) -> Tensor:
                if session.context.acting:
                    index = structure_index(call.rows, call.bank.shape[0])
                    return values.attend(call, index)
                if call.name in mutual:
                    return mutual_self_attention(call)
                return call.layer(call.hidden)

            cross = stack.enter_context(edited_words(words, pipeline, rows, given))
            own = stack.enter_context(attach(pipeline, control, rows=rows, schedule=Schedule()))
            stack.enter_context(hooked(pipeline, session))
            yield Parts(by_name={"cross": cross, "self": own})
