"""Ways of running the same network: slicing, other processors, offload, precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

import accelerate
import pytest
import tiny_models
import torch
from diffusers.hooks import apply_group_offloading
from diffusers.models.attention_processor import Attention, AttnProcessor, SlicedAttnProcessor

from masactrl.attention import GivenMasks, Rows, Schedule, WordMasks
from masactrl.errors import ControlNotApplied
from masactrl.methods import MasaCtrl

if TYPE_CHECKING:
    from collections.abc import Callable

    from diffusers import StableDiffusionPipeline
    from torch import Tensor

PROMPTS = ["a cat sitting", "a cat running"]
PAIR = Rows.one_source(targets=1)
ACTIVE = Schedule(start_step=1, start_layer=10)
LEFT = torch.tensor([[1.0, 0.0]])
FORMS = {
    "replace": MasaCtrl(schedule=ACTIVE),
    "union": MasaCtrl(schedule=ACTIVE, form="union"),
    "given": MasaCtrl(schedule=ACTIVE, masks=GivenMasks(images=(LEFT, LEFT))),
    "words": MasaCtrl(
        schedule=ACTIVE,
        masks=WordMasks(words=("cat", "cat"), prompts=tuple(PROMPTS), threshold=0.4),
    ),
}
# Tiny maps make masks without background now and then.
pytestmark = pytest.mark.filterwarnings("ignore::masactrl.errors.ControlWarning")


def controlled(pipe: StableDiffusionPipeline, form: str) -> Tensor:
    with FORMS[form].attach(pipe, PAIR) as attached:
        latents = tiny_models.run(pipe, PROMPTS)
    assert attached.report.layers == tuple(range(10, 16))
    return latents


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    pipe = tiny_models.sd()
    return {form: controlled(pipe, form) for form in FORMS}


def same(one: Tensor, other: Tensor, tolerance: float = 1e-4) -> bool:
    return bool((one - other).abs().max() / other.abs().max() < tolerance)


def slicing(pipe: StableDiffusionPipeline) -> type:
    pipe.enable_attention_slicing("max")
    return SlicedAttnProcessor


def classic(pipe: StableDiffusionPipeline) -> type:
    pipe.unet.set_attn_processor(AttnProcessor())
    return AttnProcessor


def default(pipe: StableDiffusionPipeline) -> type:
    pipe.unet.set_default_attn_processor()
    return AttnProcessor


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("change", [slicing, classic, default])
def test_processors_may_change_before_and_after(
    expected: dict[str, Tensor], form: str, change: Callable[[StableDiffusionPipeline], type]
) -> None:
    pipe = tiny_models.sd()
    with FORMS[form].attach(pipe, PAIR) as attached:
        kind = change(pipe)
        after = tiny_models.run(pipe, PROMPTS)
    assert attached.report.steps == (1, 2)
    uncontrolled = tiny_models.run(pipe, PROMPTS)
    before = controlled(pipe, form)
    assert torch.equal(before, after)
    assert same(before, expected[form])
    assert not same(before, uncontrolled, 1e-2)
    assert torch.equal(tiny_models.run(pipe, PROMPTS), uncontrolled)
    if kind is not AttnProcessor:
        assert {type(p) for p in pipe.unet.attn_processors.values()} == {kind}


@pytest.mark.parametrize("form", FORMS)
def test_sequential_offload(expected: dict[str, Tensor], form: str) -> None:
    """Weights live on no device between calls and come in layer by layer."""
    pipe = tiny_models.sd()
    accelerate.cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    plain = tiny_models.run(pipe, PROMPTS)
    assert torch.equal(controlled(pipe, form), expected[form])
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize("form", ["replace", "words"])
def test_model_offload_before_and_after(expected: dict[str, Tensor], form: str) -> None:
    """The pipeline takes its offload hooks off and puts new ones on after every call."""
    pipe = tiny_models.sd()
    plain = tiny_models.run(pipe, PROMPTS)
    with FORMS[form].attach(pipe, PAIR) as attached:
        pipe.enable_model_cpu_offload(device="cpu")
        for _ in range(2):
            assert torch.equal(tiny_models.run(pipe, PROMPTS), expected[form])
    assert [run.steps for run in attached.runs] == [(1, 2), (1, 2)]
    assert hasattr(pipe.unet, "_hf_hook")
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)
    with FORMS[form].attach(pipe, PAIR) as attached:
        for _ in range(2):
            assert torch.equal(tiny_models.run(pipe, PROMPTS), expected[form])
    assert len(attached.runs) == 2
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)
    pipe.remove_all_hooks()
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize("level", ["leaf_level", "block_level"])
def test_group_offload_before_and_after(expected: dict[str, Tensor], level: str) -> None:
    """diffusers' own offloading hangs its hooks on the same registry as ours."""

    def offload(pipe: StableDiffusionPipeline) -> None:
        apply_group_offloading(
            pipe.unet,
            onload_device=torch.device("cpu"),
            offload_device=torch.device("cpu"),
            offload_type=level,
            num_blocks_per_group=1 if level == "block_level" else None,
        )

    before, after = tiny_models.sd(), tiny_models.sd()
    plain = tiny_models.run(before, PROMPTS)
    offload(before)
    assert torch.equal(controlled(before, "words"), expected["words"])
    assert torch.equal(tiny_models.run(before, PROMPTS), plain)
    with FORMS["union"].attach(after, PAIR):
        offload(after)
        assert torch.equal(tiny_models.run(after, PROMPTS), expected["union"])
    assert torch.equal(tiny_models.run(after, PROMPTS), plain)


def test_offload_taken_away_meanwhile(expected: dict[str, Tensor]) -> None:
    pipe = tiny_models.sd()
    plain = tiny_models.run(pipe, PROMPTS)
    _, hook = accelerate.cpu_offload_with_hook(pipe.unet, torch.device("cpu"))
    with FORMS["replace"].attach(pipe, PAIR):
        hook.remove()
        assert torch.equal(tiny_models.run(pipe, PROMPTS), expected["replace"])
    assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


def test_a_displaced_clock_is_no_silent_loss() -> None:
    """Somebody puts the denoiser's own forward back: also after a run that was controlled."""
    pipe = tiny_models.sd()
    plain = tiny_models.run(pipe, PROMPTS)

    def displaced(runs: int) -> None:
        with FORMS["replace"].attach(pipe, PAIR):
            for _ in range(runs):
                tiny_models.run(pipe, PROMPTS)
            del pipe.unet.forward
            tiny_models.run(pipe, PROMPTS)

    for runs in (0, 1):
        with pytest.raises(ControlNotApplied, match="not told of the denoiser call"):
            displaced(runs)
        assert torch.equal(tiny_models.run(pipe, PROMPTS), plain)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(expected: dict[str, Tensor], form: str, dtype: torch.dtype) -> None:
    pipe = tiny_models.sd().to(dtype=dtype)
    start = tiny_models.noise(2).to(dtype)
    plain = tiny_models.run(pipe, PROMPTS, latents=start)
    with FORMS[form].attach(pipe, PAIR) as attached:
        edited = tiny_models.run(pipe, PROMPTS, latents=start)
    assert edited.dtype == dtype
    assert bool(edited.isfinite().all())
    assert same(edited[0], plain[0], 5e-2)
    assert not same(edited[1], plain[1], 2e-2)
    assert attached.report.steps == (1, 2)
    if form != "words":  # there, rounding moves picture tokens across the threshold
        close = same(edited.float(), expected[form], 0.2 if dtype == torch.bfloat16 else 2e-2)
        assert close
    again = tiny_models.run(pipe, PROMPTS, latents=start)
    assert torch.equal(again, plain)


def test_masks_with_upcast_attention_in_half_precision() -> None:
    """Stable Diffusion 2.x asks for float32 scores; sliced attention then wants such a mask."""
    pipe = tiny_models.sd().to(dtype=torch.bfloat16)
    for module in pipe.unet.modules():
        if isinstance(module, Attention):
            module.upcast_attention = True
    start = tiny_models.noise(2).to(torch.bfloat16)
    with FORMS["given"].attach(pipe, PAIR):
        one = tiny_models.run(pipe, PROMPTS, latents=start)
        pipe.enable_attention_slicing("max")
        other = tiny_models.run(pipe, PROMPTS, latents=start)
    assert same(other.float(), one.float(), 5e-2)
