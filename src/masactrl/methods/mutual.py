r"""Mutual self-attention control (Cao et al., ICCV 2023): same content, another pose or action.

    EDIT = A(Q, K_s, V_s)   where step >= S and layer >= L,   else A(Q, K, V)            (Eq. 5)

    f_o  = A(Q, K_s, V_s ; keys in M_s)            the target's queries on the source's object
    f_b  = A(Q, K_s, V_s ; keys in 1 - M_s)        and on the source's background        (Eq. 6, 7)
    f    = f_o * M + f_b * (1 - M)                                                       (Eq. 8)

    A(Q, K, V) = softmax(Q K^T / sqrt(d)) V

    Q, K, V       queries, keys and values of a target's self-attention
    K_s, V_s      keys and values of its source, same layer, same step, same guidance branch
    M_s, M        foreground of the source (over keys) and of the target (over queries)

A self-attention layer called with the source's hidden states as its context *is* A(Q, K_s, V_s):
keys and values are projected from the context. So the layer, its processor and its LoRA stay in
place, and everything below is a few calls of that layer.

Nothing here knows whose network the layer is in: a `LayerCall` is made by the hooks of
`masactrl.attention` on diffusers' networks and by the ComfyUI node on that host's. torch alone is
imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from masactrl.attention.call import LayerCall
    from masactrl.attention.rows import Part

__all__ = ["Form", "fused", "mutual_self_attention"]

Form = Literal["replace", "union"]


def mutual_self_attention(
    call: LayerCall, *, form: Form = "replace", strength: float = 1.0
) -> Tensor:
    """The output (rows, tokens, channels) of one controlled layer.

    `form` "replace" lets a target read its source only (the paper), "union" its source and itself;
    `strength` in [0, 1] blends from the layer's own output (0) to the controlled one (1). Several
    sources are read side by side. With masks each key belongs to the foreground or background of
    the image it comes from, the target's own keys (in "union") to the target's.
    """
    simple = form == "replace" and strength == 1.0 and call.masks is None
    if simple and call.rows.single is not None:
        # Everybody reads one image; sources read themselves, so their output keeps every bit.
        return call.layer(call.hidden, call.bank[call.rows.single])
    parts = [_part(call, part, form, strength) for part in call.rows.parts]
    return torch.cat(parts)[call.rows.restore]


def _part(call: LayerCall, part: Part, form: Form, strength: float) -> Tensor:
    """The output for rows that read the same number of images."""
    queries = call.hidden[part.rows]
    if not part.sources:
        return call.layer(queries)
    read = (*part.sources, part.own) if form == "union" else part.sources
    contexts = [call.read(part, k) for k in range(len(part.sources))]
    contexts += [call.bank[part.own]] if form == "union" else []
    context = torch.cat(contexts, dim=1)
    if call.masks is None:
        edited = call.layer(queries, context)
    else:
        m_s = torch.cat([call.masks[index] for index in read], dim=1)
        m = call.masks[part.own][:, :, None].to(queries.dtype)
        edited = fused(call.layer(queries, context, m_s), call.layer(queries, context, 1 - m_s), m)
    return edited if strength == 1.0 else torch.lerp(call.layer(queries), edited, strength)


def fused(f_o: Tensor, f_b: Tensor, m: Tensor) -> Tensor:
    """What was read of object and background, each where the target's mask says (Eq. 8).

    `f_o` and `f_b` (rows, tokens, channels), `m` (rows, tokens, 1) in {0, 1}.
    """
    return f_o * m + f_b * (1 - m)
