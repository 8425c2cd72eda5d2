"""All neighbours at once: ControlNet, LoRA and IP-Adapter under one control."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from peft import LoraConfig

from masactrl.attention import Rows, Schedule, WordMasks, without_condition
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from torch import Tensor

# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")
PROMPTS = ["a cat sitting", "a cat running", "a dog jumping"]
ROWS = Rows.one_source(targets=2)
ACTIVE = Schedule(fraction=(0.3, 1.0), start_layer=10)
CONTROLS = {
    "union": MasaCtrl(schedule=ACTIVE, form="union", strength=0.8),
    "words": MasaCtrl(
        schedule=ACTIVE,
        masks=WordMasks(words=("cat", "cat", "dog"), prompts=tuple(PROMPTS), threshold=0.4),
    ),
}


def ip_adapter(pipe: Any, width: int = 8) -> dict[str, dict[str, Tensor]]:
    """Random weights in the layout of an IP-Adapter checkpoint."""
    generator = torch.Generator().manual_seed(6)
    text = pipe.unet.config.cross_attention_dim
    names = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    layers = {}
    for number, name in enumerate(names):
        inner = pipe.unet.get_submodule(name.removesuffix(".processor")).inner_dim
        for key in ("to_k_ip", "to_v_ip"):
            weight = torch.randn(inner, text, generator=generator) * 0.5
            layers[f"{2 * number + 1}.{key}.weight"] = weight
    image = {
        "proj.weight": torch.randn(4 * text, width, generator=generator),
        "proj.bias": torch.zeros(4 * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    return {"image_proj": image, "ip_adapter": layers}


def run(pipe: Any, *, pose: int = 2, face: int = 1) -> Tensor:
    pictures = torch.cat(
        [torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(s)) for s in (1, pose, 4)]
    )
    seen = torch.randn(3, 1, 8, generator=torch.Generator().manual_seed(face))
    embeds = torch.cat([torch.zeros_like(seen), seen])
    return tiny_models.run(pipe, PROMPTS, image=pictures, ip_adapter_image_embeds=[embeds])


@pytest.mark.parametrize("form", CONTROLS)
def test_every_neighbour_and_the_control_are_seen_together(form: str) -> None:
    pipe = tiny_models.sd_controlnet()
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe)], low_cpu_mem_usage=False)
    with without_condition(pipe, images=3):
        without_lora = run(pipe)
    with without_condition(pipe, images=3), CONTROLS[form].attach(pipe, ROWS) as attached:
        early = run(pipe)
        torch.manual_seed(5)
        pipe.unet.add_adapter(
            LoraConfig(r=4, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False)
        )
        edited = run(pipe)
        poses, faces = run(pipe, pose=3), run(pipe, face=2)
    with without_condition(pipe, images=3):
        plain = run(pipe)
    scale = plain.abs().max()

    def difference(one: Tensor, other: Tensor) -> list[float]:
        return ((one - other).abs().amax(dim=(1, 2, 3)) / scale).tolist()

    assert attached.report.layers == tuple(range(10, 16))
    assert difference(edited, plain)[0] < 1e-4  # the source is untouched
    assert min(difference(edited, plain)[1:]) > 1e-3  # the control acts on both targets
    assert min(difference(edited, early)) > 1e-2  # the LoRA acts
    assert min(difference(plain, without_lora)) > 1e-2
    assert difference(edited, poses)[1] > 1e-2  # the ControlNet acts on its own row
    assert difference(edited, poses)[0] < 1e-4
    assert difference(edited, poses)[2] < 1e-4
    assert min(difference(edited, faces)) > 1e-2  # the IP-Adapter acts
    with without_condition(pipe, images=3):
        assert torch.equal(run(pipe), plain)
