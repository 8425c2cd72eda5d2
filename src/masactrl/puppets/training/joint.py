r"""`puppets-sd3`: Stable Diffusion 3's classes at small size, and what flow matching teaches them.

    z_s = (1 - s) z_0 + s eps        s in (0, 1], the share of noise
    v   = eps - z_0                  what the network is to say about z_s (Esser et al. 2024)

The same latents, captions and first text encoder as `puppets`. There is no T5: SD3's pipeline then
puts 256 empty tokens behind CLIP's 77. All of them are the same in every layer, so that one token
whose key weighs 256 times as much gives the same numbers, and training pays for 78.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from masactrl.puppets.training.model import LATENT_CHANNELS, PICTURE_SIZE, TEXT_WIDTH, VAE_FACTOR

_BLOCKS: Final = 8
_HEADS, _HEAD_WIDTH = 8, 32
_SECOND_WIDTH: Final = 64  # of the second text encoder, whose states are the words themselves
_JOINT_WIDTH: Final = TEXT_WIDTH + _SECOND_WIDTH
_MOST_PATCHES: Final = 32  # along a side: 512 pixels
_SHIFT: Final = 2.0
#: Empty T5 tokens of a stock call.
EMPTY_TOKENS: Final = 256
#: Substrings of the names of weights that AdamW trains, see `MuonAdamW`.
ENDS: Final = ("embed", "proj_out", "norm_out", "text_projection", "norm1")


def build_transformer(
    *, blocks: int = _BLOCKS, heads: int = _HEADS, head_width: int = _HEAD_WIDTH
) -> SD3Transformer2DModel:
    """SD3.5's joint blocks with normed queries and keys: 8 of width 256, 18 million weights.

    Every block begins as the identity (adaLN-Zero, Peebles and Xie 2023), and the network as zero.
    """
    width = heads * head_width
    made = SD3Transformer2DModel(
        sample_size=PICTURE_SIZE // VAE_FACTOR,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=blocks,
        attention_head_dim=head_width,
        num_attention_heads=heads,
        joint_attention_dim=_JOINT_WIDTH,
        caption_projection_dim=width,
        pooled_projection_dim=_JOINT_WIDTH,
        pos_embed_max_size=_MOST_PATCHES,
        qk_norm="rms_norm",
    )
    ends: list[Any] = [made.norm_out.linear, made.proj_out]
    for block in made.transformer_blocks:
        ends += [block.norm1.linear, block.norm1_context.linear]
    for linear in ends:
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
    return made


def build_text_encoders(
    vocabulary: int, bos: int, eos: int
) -> tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection]:
    """Two small CLIP towers. SD3 reads the states before the last layer, and the pooled outputs.

    The first has `puppets`' two layers and one more; the second one layer, so that the states that
    are read are those of the words and their places alone.
    """
    common = {
        "vocab_size": vocabulary,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "hidden_act": "quick_gelu",
        "bos_token_id": bos,
        "eos_token_id": eos,
        "pad_token_id": eos,
    }
    first, second = (
        CLIPTextModelWithProjection(
            CLIPTextConfig(
                hidden_size=width,
                intermediate_size=2 * width,
                projection_dim=width,
                num_hidden_layers=layers,
                **common,
            )
        )
        for width, layers in ((TEXT_WIDTH, 3), (_SECOND_WIDTH, 1))
    )
    return first, second


class JointCaptioned(nn.Module):
    """Text encoders and transformer as one module, as `Captioned` is for the U-Net."""

    def __init__(
        self,
        text_encoder: CLIPTextModelWithProjection,
        text_encoder_2: CLIPTextModelWithProjection,
        transformer: SD3Transformer2DModel,
    ) -> None:
        super().__init__()
        self.text_encoder, self.text_encoder_2 = text_encoder, text_encoder_2
        self.transformer = transformer

    @staticmethod
    def built(tokenizer: CLIPTokenizer) -> JointCaptioned:
        """The network with random weights, ready to be trained."""
        first, second = build_text_encoders(
            len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id
        )
        network = JointCaptioned(first, second, build_transformer())
        network.transformer.set_attn_processor(OneEmptyToken())
        return network

    def begin_with(self, pipeline: Any) -> None:
        """Take the weights of a `puppets-sd3` pipeline, or the text encoder of a `puppets` one."""
        if isinstance(pipeline, StableDiffusion3Pipeline):
            for name in ("text_encoder", "text_encoder_2", "transformer"):
                getattr(self, name).load_state_dict(getattr(pipeline, name).float().state_dict())
            return
        known: Mapping[str, Tensor] = pipeline.text_encoder.float().state_dict()
        known = {f"text_model.{n.removeprefix('text_model.')}": v for n, v in known.items()}
        # What is missing: the third layer and the projection.
        self.text_encoder.load_state_dict(known, strict=False)

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """(n, c, h, w), (n,) in [0, 1000], (n, 77) -> predicted velocity (n, c, h, w)."""
        said = [
            encoder(tokens, output_hidden_states=True)
            for encoder in (self.text_encoder, self.text_encoder_2)
        ]
        states = torch.cat([one.hidden_states[-2] for one in said], dim=-1)
        predicted: Tensor = self.transformer(
            noisy,
            timestep=timesteps,
            encoder_hidden_states=F.pad(states, (0, 0, 0, 1)),
            pooled_projections=torch.cat([one.text_embeds for one in said], dim=-1),
            return_dict=False,
        )[0]
        return predicted


class OneEmptyToken:
    """SD3's joint attention whose last text token stands for 256 equal ones; for training only.

    softmax over 256 equal keys k = softmax over one whose logit is q.k + log 256.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, **_: object
    ) -> tuple[Tensor, Tensor]:
        """(n, patches, d), (n, words, d) -> both attended together."""

        def split(x: Tensor, norm: Any) -> Tensor:
            parts = x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            normed: Tensor = parts if norm is None else norm(parts)
            return normed

        picture, text = hidden_states, encoder_hidden_states
        q, k, v = (
            torch.cat([split(own(picture), norm), split(added(text), added_norm)], dim=2)
            for own, norm, added, added_norm in (
                (attn.to_q, attn.norm_q, attn.add_q_proj, attn.norm_added_q),
                (attn.to_k, attn.norm_k, attn.add_k_proj, attn.norm_added_k),
                (attn.to_v, None, attn.add_v_proj, None),
            )
        )
        k = k.to(v.dtype)
        bias = torch.zeros(k.shape[2], dtype=v.dtype, device=v.device)
        bias[-1] = math.log(EMPTY_TOKENS)
        if q.device.type == "cpu":  # the fused kernel's backward pass is slower there
            each = bias.expand(q.shape[2], len(bias))
            scale = q.shape[-1] ** -0.5
            flat = (q.to(v.dtype).flatten(0, 1), k.flatten(0, 1).mT)
            shares = torch.baddbmm(each, *flat, alpha=scale).softmax(-1)
            mixed = (shares @ v.flatten(0, 1)).view_as(q)
        else:
            rows = bias.expand(len(q), 1, q.shape[2], len(bias))
            mixed = F.scaled_dot_product_attention(q.to(v.dtype), k, v, rows)
        mixed = mixed.transpose(1, 2).flatten(2)
        patches = picture.shape[1]
        out, said = mixed[:, :patches], mixed[:, patches:]
        if not attn.context_pre_only:
            said = attn.to_add_out(said)
        return attn.to_out[0](out), said


@dataclass(frozen=True, slots=True)
class FlowNoising:
    """z_s and v of the head of this file, s as SD3 draws it: logit-normal, then shifted."""

    offset: float = 0.0
    shift: float = _SHIFT

    def draw(
        self, z_0: Tensor, generator: torch.Generator, noise: torch.Generator | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(n, c, h, w) -> z_s (n, c, h, w), 1000 s (n,), v (n, c, h, w); as `Noising.draw`."""
        count, noise = len(z_0), noise or generator
        # One from each of n equal bins: less variance.
        u = torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)
        s = torch.sigmoid(torch.special.ndtri((u / count).clamp(1e-4, 1 - 1e-4)))
        s = self.shift * s / (1 + (self.shift - 1) * s)
        eps = torch.randn(z_0.shape, generator=noise, device=noise.device).to(z_0.device)
        if self.offset:
            shared = torch.randn(*z_0.shape[:2], 1, 1, generator=noise, device=noise.device)
            eps = eps + self.offset * shared.to(z_0.device)
        share = s.view(-1, 1, 1, 1).to(z_0.device)
        return (1 - share) * z_0 + share * eps, 1000 * s, eps - z_0

    def weight(self, t: Tensor) -> Tensor:
        """(n,) -> ones: the draw of s is the weight."""
        return torch.ones_like(t)


def build_flow_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """SD3's scheduler; the shift of its 1024 pixels, 3, is more than 256 pixels need."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=_SHIFT)


#: What `from_pretrained` of an SD3 pipeline without T5 has to be told.
NO_T5: Final[Mapping[str, None]] = MappingProxyType({"text_encoder_3": None, "tokenizer_3": None})


def as_sd3_pipeline(
    vae: AutoencoderKL, network: nn.Module, tokenizer: CLIPTokenizer
) -> StableDiffusion3Pipeline:
    """The parts as a stock pipeline without T5."""
    if not isinstance(network, JointCaptioned):
        raise TypeError(f"network must be JointCaptioned, not {type(network).__name__}.")
    network.transformer.set_attn_processor(JointAttnProcessor2_0())
    vae.register_to_config(shift_factor=0.0)  # the pipeline adds it
    pipeline = StableDiffusion3Pipeline(
        transformer=network.transformer.eval(),
        scheduler=build_flow_scheduler(),
        vae=vae.eval(),
        text_encoder=network.text_encoder.eval(),
        tokenizer=tokenizer,
        text_encoder_2=network.text_encoder_2.eval(),
        tokenizer_2=tokenizer,
        **NO_T5,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
