"""LoRA and IP-Adapter under control: both effects visible, in either order of arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import tiny_models
import torch
from diffusers import StableDiffusionPipeline
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict

from masactrl.attention import Rows, Schedule, WordMasks
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
CONTROLS = {
    "replace": MasaCtrl(schedule=Schedule(start_step=1, start_layer=10)),
    "union": MasaCtrl(schedule=Schedule(start_step=1, start_layer=10), form="union"),
    "words": MasaCtrl(
        schedule=Schedule(start_step=1, start_layer=10),
        masks=WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4),
    ),
}
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


def add_lora(pipe: Any) -> None:
    torch.manual_seed(5)
    targets = ["to_q", "to_k", "to_v", "to_out.0"]
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, init_lora_weights=False)
    pipe.unet.add_adapter(config)


def merged() -> StableDiffusionPipeline:
    """The same LoRA, merged into the weights: no adapter layers at all."""
    pipe = tiny_models.sd()
    add_lora(pipe)
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    return pipe


@pytest.mark.parametrize("form", CONTROLS)
def test_lora_before_and_after_attaching(form: str) -> None:
    control = CONTROLS[form]
    reference = merged()
    with control.attach(reference, PAIR):
        expected = tiny_models.run(reference, PROMPTS)

    pipe = tiny_models.sd()
    with control.attach(pipe, PAIR):
        without_lora = tiny_models.run(pipe, PROMPTS)
        add_lora(pipe)
        after = tiny_models.run(pipe, PROMPTS)
    uncontrolled = tiny_models.run(pipe, PROMPTS)
    with control.attach(pipe, PAIR):
        before = tiny_models.run(pipe, PROMPTS)

    scale = expected.abs().max()
    assert torch.equal(before, after)
    assert (before - expected).abs().max() / scale < 1e-4
    assert (before - without_lora).abs().max() / scale > 1e-2
    assert (before - uncontrolled)[1].abs().max() / scale > 1e-2
    assert torch.equal(tiny_models.run(pipe, PROMPTS), uncontrolled)
    with control.attach(pipe, PAIR):
        pipe.unet.delete_adapters("default")
        assert torch.equal(tiny_models.run(pipe, PROMPTS), without_lora)


def test_lora_through_the_pipeline_s_loader(tmp_path: Path) -> None:
    donor = tiny_models.sd()
    add_lora(donor)
    layers = get_peft_model_state_dict(donor.unet)
    StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)

    control, pipe = CONTROLS["replace"], tiny_models.sd()
    plain = tiny_models.run(pipe, PROMPTS)
    with control.attach(pipe, PAIR):
        without_lora = tiny_models.run(pipe, PROMPTS)
        pipe.load_lora_weights(tmp_path)
        inside = tiny_models.run(pipe, PROMPTS)
        half = tiny_models.run(pipe, PROMPTS, cross_attention_kwargs={"scale": 0.5})
    with control.attach(pipe, PAIR):
        assert torch.equal(tiny_models.run(pipe, PROMPTS), inside)
        pipe.unload_lora_weights()
        assert torch.equal(tiny_models.run(pipe, PROMPTS), without_lora)
    assert (inside - without_lora).abs().max() > 0.1
    assert (half - inside).abs().max() > 0.05
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


def ip_adapter(pipe: Any, width: int = 8) -> dict[str, dict[str, Tensor]]:
    """Random weights in the layout of an IP-Adapter checkpoint."""
    generator = torch.Generator().manual_seed(6)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator) * 0.5

    text = pipe.unet.config.cross_attention_dim
    names = [name for name in pipe.unet.attn_processors if name.endswith("attn2.processor")]
    layers = {}
    for number, name in enumerate(names):
        attention = pipe.unet.get_submodule(name.removesuffix(".processor"))
        for key in ("to_k_ip", "to_v_ip"):
            layers[f"{2 * number + 1}.{key}.weight"] = random(attention.inner_dim, text)
    image = {
        "proj.weight": random(4 * text, width),
        "proj.bias": random(4 * text),
        "norm.weight": torch.ones(text),
        "norm.bias": torch.zeros(text),
    }
    return {"image_proj": image, "ip_adapter": layers}


def load_ip_adapter(pipe: Any) -> None:
    pipe.unet._load_ip_adapter_weights([ip_adapter(pipe)], low_cpu_mem_usage=False)


def pictures(seed: int) -> Tensor:
    """Image embeddings (2 branches x 2 images, 1, width), the unconditional ones zero."""
    embeds = torch.randn(2, 1, 8, generator=torch.Generator().manual_seed(seed))
    return torch.cat([torch.zeros_like(embeds), embeds])


@pytest.mark.parametrize("form", CONTROLS)
def test_ip_adapter_before_and_after_attaching(form: str) -> None:
    control, pipe = CONTROLS[form], tiny_models.sd()

    def run(seed: int) -> Tensor:
        return tiny_models.run(pipe, PROMPTS, ip_adapter_image_embeds=[pictures(seed)])

    with control.attach(pipe, PAIR):
        without = tiny_models.run(pipe, PROMPTS)
        load_ip_adapter(pipe)
        after = run(1)
        pipe.set_ip_adapter_scale(0.0)
        switched_off = run(1)
        pipe.set_ip_adapter_scale(1.0)
    uncontrolled = run(1)
    with control.attach(pipe, PAIR) as attached:
        before = run(1)
        other_picture = run(2)

    kinds = {type(processor) for processor in pipe.unet.attn_processors.values()}
    assert IPAdapterAttnProcessor2_0 in kinds
    assert attached.report.layers == tuple(range(10, 16))
    scale = before.abs().max()
    assert torch.equal(before, after)
    assert (switched_off - without).abs().max() / scale < 1e-4
    assert (before - other_picture).abs().max() / scale > 1e-2
    assert (before - uncontrolled)[1].abs().max() / scale > 1e-2
    assert (before - uncontrolled)[0].abs().max() / scale < 1e-4
    assert torch.equal(run(1), uncontrolled)


@pytest.mark.parametrize("neighbour", ["lora", "ip-adapter"])
def test_sdxl_before_and_after_attaching(neighbour: str) -> None:
    control, pipe = MasaCtrl(schedule=Schedule(start_step=1, start_layer=44)), tiny_models.sdxl()
    add = add_lora if neighbour == "lora" else load_ip_adapter
    options = {} if neighbour == "lora" else {"ip_adapter_image_embeds": [pictures(1)]}

    with control.attach(pipe, PAIR):
        without = tiny_models.run(pipe, PROMPTS, steps=2)
        add(pipe)
        after = tiny_models.run(pipe, PROMPTS, steps=2, **options)
    uncontrolled = tiny_models.run(pipe, PROMPTS, steps=2, **options)
    with control.attach(pipe, PAIR) as attached:
        before = tiny_models.run(pipe, PROMPTS, steps=2, **options)

    assert attached.report.layers == tuple(range(44, 70))
    scale = before.abs().max()
    assert torch.equal(before, after)
    assert (before - without).abs().max() / scale > 1e-2
    assert (before - uncontrolled)[1].abs().max() / scale > 1e-3
    assert (before - uncontrolled)[0].abs().max() / scale < 1e-4
    assert torch.equal(tiny_models.run(pipe, PROMPTS, steps=2, **options), uncontrolled)
