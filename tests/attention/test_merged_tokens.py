"""Networks that show a layer fewer tokens than the picture has: served, or said."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models
import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.errors import UnsupportedPipeline
from masactrl.methods import MasaCtrl

PROMPTS = ["a cat standing", "a cat running"]


class Merged(BasicTransformerBlock):
    """A block whose attention sees neighbours merged by twos."""

    crossed = False

    def forward(self, hidden_states: Tensor, encoder_hidden_states: Any = None, **_: Any) -> Tensor:
        pairs = self.norm1(hidden_states).unflatten(1, (-1, 2)).mean(2)
        hidden_states = hidden_states + self.attn1(pairs).repeat_interleave(2, dim=1)
        queries = self.norm2(hidden_states)
        if self.crossed:
            merged = queries.unflatten(1, (-1, 2)).mean(2)
            told = self.attn2(merged, encoder_hidden_states=encoder_hidden_states)
            told = told.repeat_interleave(2, dim=1)
        else:
            told = self.attn2(queries, encoder_hidden_states=encoder_hidden_states)
        hidden_states = hidden_states + told
        return hidden_states + self.ff(self.norm3(hidden_states))


@pytest.fixture(params=[False, True], ids=["self", "self and cross"])
def pipeline(request: pytest.FixtureRequest) -> Any:
    made = tiny_models.sd()
    kind = type("Merged", (Merged,), {"crossed": request.param})
    for block in made.unet.modules():
        if isinstance(block, BasicTransformerBlock):
            block.__class__ = kind
    return made


def run(pipeline: Any, **options: Any) -> Tensor:
    noise = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    control = MasaCtrl(schedule=Schedule(start_step=1, start_layer=10), **options)
    with control.attach(pipeline, Rows.one_source(targets=1)):
        made: Tensor = pipeline(
            PROMPTS, latents=noise.repeat(2, 1, 1, 1), num_inference_steps=2, output_type="latent"
        ).images
    return made


@pytest.mark.parametrize("form", ["replace", "union"])
def test_control_without_masks_works(pipeline: Any, form: str) -> None:
    assert bool(run(pipeline, form=form).isfinite().all())


@pytest.mark.parametrize("form", ["replace", "union"])
def test_masks_say_why_they_cannot(pipeline: Any, form: str) -> None:
    half = torch.zeros(64, 64)
    half[:, :32] = 1
    words = WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), on_empty="warn")
    for masks in (GivenMasks(images=(half, half)), words):
        with pytest.raises(UnsupportedPipeline, match="merges or tiles"):
            run(pipeline, masks=masks, form=form)
    assert bool(run(pipeline).isfinite().all())  # and the pipeline is as it was
