"""The optimizer of every training run here: Muon for weight matrices, AdamW for the rest.

On the two cores this model is trained on, orthogonalised momentum (Jordan et al. 2024) reaches the
same loss in clearly fewer pictures than AdamW alone, for a few per cent more time a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn


class MuonAdamW:
    """`torch.optim.Muon` on hidden weights, `torch.optim.AdamW` on embeddings, norms, biases, ends.

    Convolution kernels are seen as (out, in * kh * kw) matrices that share the module's storage.
    Learning rates are AdamW's: Muon's updates are scaled to the same root mean square.

    Args:
        module: all parameters with ``requires_grad`` are optimised.
        lr: learning rate of both.
        ends: substrings of the names of matrices that AdamW keeps (input, output, embeddings).
        weight_decay: decoupled decay of the matrices.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        lr: float,
        ends: tuple[str, ...] = ("embedding", "conv_in", "conv_out"),
        weight_decay: float = 0.01,
    ) -> None:
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if p.ndim >= 2 and not any(e in n for e in ends)]
        chosen = {id(p) for p in matrices}
        rest = [p for _, p in named if id(p) not in chosen]
        self._pairs = [(p, nn.Parameter(p.data.view(len(p), -1))) for p in matrices]
        self._muon = torch.optim.Muon(
            [view for _, view in self._pairs],
            lr=lr,
            weight_decay=weight_decay,
            adjust_lr_fn="match_rms_adamw",
        )
        self._adamw = torch.optim.AdamW(rest, lr=lr, betas=(0.9, 0.99), weight_decay=0.0)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both, to set learning rates."""
        return [*self._muon.param_groups, *self._adamw.param_groups]

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter, view in self._pairs:
            parameter.grad = view.grad = None
        self._adamw.zero_grad(set_to_none=True)

    def step(self) -> None:
        """Update from the gradients of the module's parameters."""
        for parameter, view in self._pairs:
            view.grad = None if parameter.grad is None else parameter.grad.view(len(view), -1)
        self._muon.step()
        self._adamw.step()

    def state_dict(self) -> dict[str, Any]:
        """The state of both optimizers."""
        return {"muon": self._muon.state_dict(), "adamw": self._adamw.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self._muon.load_state_dict(state["muon"])
        self._adamw.load_state_dict(state["adamw"])
