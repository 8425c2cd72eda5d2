"""The paper's edit written out makes the picture that ours makes of the same rows."""

from __future__ import annotations

import tiny_models as tiny
import torch
from PIL import Image

from masactrl.bench.official_edit import official_edit
from masactrl.models import model_of
from masactrl.models.denoiser import Denoiser
from masactrl.pictures.images import image_to_tensor
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.invert import InversionRequest, invert


def test_it_is_the_joint_edit_after_ddim_inversion() -> None:
    model, picture = model_of(tiny.sd()), Image.effect_noise((64, 64), 80).convert("RGB")
    own = list(model.pipeline.unet.attn_processors.values())
    z_0 = Denoiser(model.pipeline).encode_image(image_to_tensor(picture)[None])
    made = official_edit(
        model.pipeline, z_0, "a dog", steps=4, guidance=4.0, start_step=1, start_layer=10
    )
    assert list(model.pipeline.unet.attn_processors.values()) == own

    def ours(layer: int) -> torch.Tensor:
        inversion = InversionRequest(method="ddim", steps=4, fit="keep")
        edit = EditRequest(
            target_prompts=("a dog",),
            guidance_scale=4.0,
            start_step=1,
            start_layer=layer,
            compare=False,
            mode="joint",
        )
        return invert(model, picture, inversion).edit(edit).latents["target1-controlled"]

    near = 1e-3 * float(made.abs().max())  # random networks blow rounding up from step to step
    assert torch.allclose(made[1], ours(10), atol=near)
    assert not torch.allclose(made[1], ours(14), atol=10 * near)
