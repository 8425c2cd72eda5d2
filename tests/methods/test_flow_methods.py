"""Rivals on SD3 and FLUX: against literal processors and loops, and left as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import tiny_mmdit
import tiny_models
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from masactrl.attention import Rows
from masactrl.diffusion import flow_schedule
from masactrl.errors import ConfigError, ScheduleError, UnsupportedPipeline
from masactrl.methods import ConsistEdit, FlowEdit, RFEdit, SDEdit, methods_of
from masactrl.methods.running import run_method
from masactrl.models import LoadedModel, default_preset
from masactrl.models.denoiser import Denoiser
from masactrl.models.drawing import draw
from masactrl.models.guided import Condition, Guided
from masactrl.runs.edit_request import EditRequest
from masactrl.runs.generate import GenerateRequest
from masactrl.runs.invert import InversionRequest, invert
from masactrl.studies.compare import COMPARED_FLOWS, compare

PROMPTS = ["a cat sitting on snow", "a dog sitting on snow"]
ROWS = Rows.one_source(targets=1)
STEPS = 4
METHODS = {"consistedit": ConsistEdit(strength=0.5), "rf-edit": RFEdit(part=0.5)}


@pytest.fixture(scope="module", params=["sd3", "sd35", "flux"])
def pipe(request: pytest.FixtureRequest) -> DiffusionPipeline:
    if request.param == "flux":
        return tiny_mmdit.flux()
    return tiny_mmdit.sd3(dual=request.param == "sd35", t5=request.param == "sd3")


def run(pipe: Any, prompts: list[str] = PROMPTS, latents: Tensor | None = None) -> Tensor:
    noise = tiny_models.noise(len(prompts), 4, 6) if latents is None else latents
    return draw(pipe, prompts, noise, steps=STEPS, guidance_scale=3.0)


class Literal:
    """A processor of diffusers whose target rows are given the source's projections."""

    def __init__(self, inner: Any, parts: str, text_rows: int | None) -> None:
        self.inner, self.parts, self.text_rows = inner, parts, text_rows
        self.on = False

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if not self.on:
            return self.inner(attn, hidden_states, *args, **kwargs)
        kept = {}
        for part in self.parts:
            linear = getattr(attn, f"to_{part}")
            kept[part] = linear.forward
            linear.forward = self._swapped(linear.forward)
        try:
            return self.inner(attn, hidden_states, *args, **kwargs)
        finally:
            for part, forward in kept.items():
                getattr(attn, f"to_{part}").forward = forward

    def _swapped(self, forward: Any) -> Any:
        def swapped(x: Tensor) -> Tensor:
            made = forward(x).clone()
            begin = self.text_rows or 0
            for target in range(1, len(made), 2):  # source, target in every branch
                made[target, begin:] = made[target - 1, begin:]
            return made

        return swapped


@contextmanager
def literal(pipe: Any, name: str) -> Iterator[list[Literal]]:
    """The method written into the processors, switched on by a hook for steps 0 and 1."""
    network, flux = pipe.transformer, hasattr(pipe.transformer, "single_transformer_blocks")
    blocks = list(network.single_transformer_blocks if flux else network.transformer_blocks)
    if name == "rf-edit":
        blocks = blocks[len(blocks) // 2 :]
    parts = "qk" if name == "consistedit" else "v"
    text = 512 if flux and name == "consistedit" else None
    attentions = [a for b in blocks for a in (b.attn, getattr(b, "attn2", None)) if a is not None]
    processors = [Literal(a.processor, parts, text) for a in attentions]
    calls: list[float] = []

    def before(_module: Any, _args: Any, kwargs: Any) -> None:
        calls.append(float(kwargs["timestep"].flatten()[0]))
        step = len(dict.fromkeys(calls)) - 1
        for one in processors:
            one.on = step < 2

    handle = network.register_forward_pre_hook(before, with_kwargs=True)
    for attention, processor in zip(attentions, processors, strict=True):
        attention.processor = processor
    try:
        yield processors
    finally:
        handle.remove()
        for attention, processor in zip(attentions, processors, strict=True):
            attention.processor = processor.inner


@pytest.mark.parametrize("name", METHODS)
def test_a_method_is_its_literal_processor(pipe: Any, name: str) -> None:
    plain = run(pipe)
    with METHODS[name].attach(pipe, ROWS, prompts=PROMPTS) as attached:
        found = run(pipe)
    with literal(pipe, name):
        wanted = run(pipe)
    effect = (found[1] - plain[1]).abs().max()
    assert effect > 1e-4
    assert (found - wanted).abs().max() < 1e-2 * effect
    assert torch.equal(found[0], plain[0])
    assert {step for step, _ in attached.touched} == {0, 1}
    assert torch.equal(run(pipe), plain)  # nothing is left


def test_flowedit_is_the_paper_s_loop(pipe: Any) -> None:
    noise = tiny_models.noise(1, 4, 6)
    z_0 = tiny_models.noise(1, 4, 6, seed=5)
    method = FlowEdit(strength=0.75, source_guidance=2.0)

    def call(prompts: list[str], latents: Tensor, callback: Any) -> Tensor:
        return draw(pipe, prompts, latents, steps=STEPS, guidance_scale=3.0, on_step_end=callback)

    made = run_method(
        pipe,
        method,
        source_prompts=PROMPTS[:1],
        target_prompts=PROMPTS[1:],
        noise=noise,
        steps=STEPS,
        call=call,
        source_latents=z_0,
    )
    port = Denoiser(pipe)
    schedule = port.schedule(STEPS, size=(4, 6))
    text = port.encode_text([*PROMPTS, ""])
    two = not port.reads_guidance

    def velocity(row: int, scale: float) -> Guided:
        nothing = text.row(2) if two else None
        condition = Condition(text=text.row(row), unconditional=nothing, scale=scale)
        return Guided(port, [condition], schedule)

    source, target = velocity(0, 2.0), velocity(1, 3.0)
    generator, edit, eps = torch.Generator().manual_seed(1), z_0, noise
    with torch.no_grad():
        for step in range(1, STEPS):
            s, s_next = schedule.sigma[step : step + 2]
            z_s = (1 - s) * z_0 + s * eps
            z_t = edit + z_s - z_0
            edit = edit + (s_next - s) * (target(z_t, step) - source(z_s, step))
            eps = torch.randn(z_0.shape, generator=generator)
        wanted = (port.decode_image(edit) / 2 + 0.5).clamp(0, 1)
    assert torch.allclose(made.targets, wanted, atol=1e-4)
    with pytest.raises(ConfigError, match="was told of none"):
        method.attach(pipe, ROWS)


def test_sdedit_s_last_steps_are_those_of_the_whole_run(pipe: Any) -> None:
    """From its own path a run goes on as if it had never been left."""
    noise = tiny_models.noise(1, 4, 6)
    kept: list[Tensor] = []

    def keep(_pipe: Any, _step: int, _t: Any, values: dict[str, Any]) -> dict[str, Any]:
        kept.append(values["latents"])
        return values

    options: dict[str, Any] = {"steps": STEPS, "guidance_scale": 3.0}
    whole = draw(pipe, PROMPTS[:1], noise, on_step_end=keep, **options)
    flux = hasattr(pipe.transformer, "single_transformer_blocks")
    schedule = flow_schedule(pipe.scheduler, STEPS, patches=6, listed=flux)
    signal, share = schedule.pair(2)
    from masactrl.methods.starts import beginning

    # A z_0 that with this noise is where the run was before its third step.
    z_0 = (kept[1] - share * noise) / signal
    with beginning(
        pipe, SDEdit(strength=0.5), prompts=PROMPTS[:1], z_0=z_0, noise=noise, steps=STEPS
    ) as z_t:
        assert torch.allclose(z_t, kept[1], atol=1e-5)
        late = draw(pipe, PROMPTS[:1], z_t, **options)
    assert torch.allclose(late, whole, atol=1e-4)
    assert torch.equal(draw(pipe, PROMPTS[:1], noise, **options), whole)


def _model(pipe: Any) -> LoadedModel:
    flux = hasattr(pipe.transformer, "single_transformer_blocks")
    family: Any = "flux" if flux else "sd3"
    preset = default_preset(family, height=32, width=48, layers=4)
    return LoadedModel(pipeline=pipe, name="tiny", family=family, preset=preset)


def test_a_comparison_has_a_column_for_each(pipe: Any) -> None:
    model = _model(pipe)
    asked = GenerateRequest(source_prompt=PROMPTS[0], target_prompts=(PROMPTS[1],), steps=STEPS)
    made = compare(model, asked)
    assert [one.method for one in made.columns] == ["source", "fixed-seed", *COMPARED_FLOWS]
    assert set(COMPARED_FLOWS) == {*methods_of("flow")} - {"fixed-seed"}
    pictures = [one.image.tobytes() for one in made.columns]
    assert len(set(pictures)) == len(pictures)


def test_a_picture_is_compared_and_the_plan_is_kept(pipe: Any) -> None:
    model = _model(pipe)
    noise = torch.randint(0, 256, (32, 48, 3), generator=torch.Generator().manual_seed(0))
    picture = Image.fromarray(noise.to(torch.uint8).numpy())
    session = invert(model, picture, InversionRequest(source_prompt=PROMPTS[0], steps=STEPS))
    request = EditRequest(target_prompts=(PROMPTS[1],), start_step=1)
    made = compare(session, request)
    assert [one.method for one in made.columns][3:] == list(COMPARED_FLOWS)
    for name in COMPARED_FLOWS[1:]:
        asked = EditRequest(target_prompts=(PROMPTS[1],), method=name, compare=False)
        assert session.edit(asked).passes["edit"] == session.plan(asked).edit, name


def test_u_nets_and_layers_that_are_not_there_are_refused() -> None:
    unet, flux = tiny_models.sd(), tiny_mmdit.flux()
    for method in METHODS.values():
        with pytest.raises(UnsupportedPipeline, match="joint attention of SD3 and FLUX"):
            method.attach(unet, ROWS)
    with pytest.raises(ScheduleError, match="Layer 60 was asked for; this network has 0 to 5"):
        RFEdit(layers=(60,)).attach(flux, ROWS)
    for wrong in ({"strength": 0.0}, {"source_guidance": 0.5}):
        with pytest.raises(ConfigError, match="was given; accepted"):
            FlowEdit(**wrong)  # type: ignore[arg-type]
