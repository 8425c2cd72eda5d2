"""SD3 and FLUX under control beside LoRA, IP-Adapters, offload, backends and compiling."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_mmdit
import torch
from diffusers import (
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxImg2ImgPipeline,
    StableDiffusion3Img2ImgPipeline,
)
from diffusers.hooks import apply_group_offloading
from diffusers.models.transformers.transformer_flux import FluxIPAdapterAttnProcessor
from oracles.literal_mmdit import LiteralJoint

from masactrl.attention import Rows, Schedule
from masactrl.errors import UnsupportedPipeline
from masactrl.methods import MasaCtrl

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
FORMS = {
    "replace": MasaCtrl(schedule=Schedule(start_step=1, start_layer=1)),
    "union": MasaCtrl(schedule=Schedule(start_step=1, start_layer=1), form="union"),
}
KINDS = {
    "sd3.5": lambda: tiny_mmdit.sd3(dual=True),
    "flux": tiny_mmdit.flux,
}


def run(pipe: Any) -> torch.Tensor:
    return tiny_mmdit.run(pipe, PROMPTS, size=(6, 10))


def controlled(pipe: Any, form: str) -> torch.Tensor:
    with FORMS[form].attach(pipe, PAIR):
        return run(pipe)


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return bool((one - other).abs().max() / other.abs().max() < 5e-5)


# The ControlNet's own class names a module of diffusers by its old place.
@pytest.mark.filterwarnings("ignore:.FluxPosEmbed. is deprecated:FutureWarning")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "kind", [StableDiffusion3Img2ImgPipeline, FluxImg2ImgPipeline, FluxControlNetPipeline]
)
def test_other_pipelines_of_the_families(kind: Any, form: str) -> None:
    base = tiny_mmdit.sd3() if kind is StableDiffusion3Img2ImgPipeline else tiny_mmdit.flux()
    parts, options = dict(base.components), {"image": torch.rand(1, 3, 64, 64).repeat(4, 1, 1, 1)}
    if kind is FluxControlNetPipeline:
        torch.manual_seed(3)
        parts["controlnet"] = controlnet()
        options = {"control_image": torch.rand(2, 3, 64, 64)}
    else:
        options["strength"] = 0.75
    pipe = kind(**parts)
    pipe.set_progress_bar_config(disable=True)

    def made() -> torch.Tensor:
        noise = [torch.Generator().manual_seed(5) for _ in range(4)]
        with torch.no_grad():
            return pipe(
                PROMPTS, height=64, width=64, num_inference_steps=4, generator=noise,
                num_images_per_prompt=2, output_type="latent", max_sequence_length=10, **options,
            ).images  # fmt: skip

    plain = made()
    rows = Rows.one_source(targets=1, images_per_prompt=2)
    with FORMS[form].attach(pipe, rows) as attached:
        edited = made()
    assert attached.report.complete
    assert torch.equal(edited[:2], plain[:2])
    assert not same(edited, plain)
    assert torch.equal(made(), plain)


def controlnet() -> FluxControlNetModel:
    made = FluxControlNetModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=tiny_mmdit.T5_WIDTH,
        pooled_projection_dim=16,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    )
    for name, parameter in made.named_parameters():
        if "controlnet_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


def add_lora(pipe: Any) -> None:
    peft = pytest.importorskip("peft")
    torch.manual_seed(9)
    targets = ["to_k", "to_q", "to_v", "add_k_proj"]
    pipe.transformer.add_adapter(
        peft.LoraConfig(r=2, lora_alpha=2, target_modules=targets, init_lora_weights=False)
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_lora_stays_in_place(kind: str, form: str) -> None:
    pipe, written_out = KINDS[kind](), KINDS[kind]()
    bare = controlled(pipe, form)
    add_lora(pipe)
    plain, made = run(pipe), controlled(pipe, form)
    assert torch.equal(made[0], plain[0])
    assert not same(made, bare)
    add_lora(written_out)
    LiteralJoint(
        written_out.transformer, reads=PAIR.reads, grid=(3, 5), start_step=1, form=form,
        layers=range(1, 9),
    )  # fmt: skip
    assert same(made, run(written_out))
    assert torch.equal(run(pipe), plain)


def test_lora_loaded_meanwhile_is_refused() -> None:
    pipe = tiny_mmdit.flux()

    def loaded_meanwhile() -> None:
        with FORMS["replace"].attach(pipe, PAIR):
            add_lora(pipe)
            run(pipe)

    with pytest.raises(UnsupportedPipeline, match=r"were replaced after.*Load LoRA"):
        loaded_meanwhile()


def with_ip_adapter(pipe: Any) -> Any:
    """What loading FLUX's IP-Adapter does: processors of its own in the double blocks."""
    torch.manual_seed(8)
    for block in pipe.transformer.transformer_blocks:
        block.attn.set_processor(FluxIPAdapterAttnProcessor(16, 16, num_tokens=(2,)))
    return pipe


def run_with_image(pipe: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    states = [torch.randn(2, 2, 16, generator=generator)]
    return tiny_mmdit.run(
        pipe, PROMPTS, size=(6, 10), joint_attention_kwargs={"ip_hidden_states": states}
    )


def test_ip_adapter_stays_in_place() -> None:
    pipe = with_ip_adapter(tiny_mmdit.flux())
    plain = run_with_image(pipe)
    assert not same(plain, run(tiny_mmdit.flux()))
    with FORMS["replace"].attach(pipe, PAIR):
        edited = run_with_image(pipe)
    assert torch.equal(edited[0], plain[0])
    assert not same(edited, plain)
    with (
        pytest.raises(UnsupportedPipeline, match=r"FluxIPAdapterAttnProcessor.*form='replace'"),
        FORMS["union"].attach(pipe, PAIR),
    ):
        run_with_image(pipe)
    assert torch.equal(run_with_image(pipe), plain)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_group_offload(kind: str, form: str) -> None:
    pipe = KINDS[kind]()
    wanted = controlled(pipe, form)
    for how in (
        {"offload_type": "block_level", "num_blocks_per_group": 1},
        {"offload_type": "leaf_level"},
    ):
        offloaded = KINDS[kind]()
        apply_group_offloading(
            offloaded.transformer, onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"), **how,
        )  # fmt: skip
        assert torch.equal(controlled(offloaded, form), wanted)


def test_another_backend_is_used() -> None:
    pipe = tiny_mmdit.flux()
    wanted = {form: controlled(pipe, form) for form in FORMS}
    pipe.transformer.set_attention_backend("_native_math")
    for form in FORMS:
        assert same(controlled(pipe, form), wanted[form])
    assert pipe.transformer.transformer_blocks[0].attn.processor._attention_backend is not None


@pytest.mark.parametrize(("kind", "form"), [("sd3.5", "union"), ("flux", "replace")])
def test_compiled(kind: str, form: str) -> None:
    """Equal, and no graph a step. Tracing takes time by the layer, so there are one or two."""
    graphs: list[object] = []

    def counted(graph: torch.fx.GraphModule, _inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    pipe = KINDS[kind]()
    network = pipe.transformer
    network.transformer_blocks = network.transformer_blocks[:1]
    if kind == "flux":
        network.single_transformer_blocks = network.single_transformer_blocks[:1]
    control = MasaCtrl(schedule=Schedule(start_step=1), form=FORMS[form].form)
    plain = run(pipe)
    with control.attach(pipe, PAIR):
        wanted = run(pipe)
    torch._dynamo.reset()
    pipe.transformer = torch.compile(network, backend=counted)
    with control.attach(pipe, PAIR):
        assert same(run(pipe), wanted)
        made = len(graphs)
        tiny_mmdit.run(pipe, PROMPTS, size=(6, 10), steps=7)
        assert len(graphs) == made
    assert same(run(pipe), plain)
