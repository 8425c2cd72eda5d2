from __future__ import annotations

import pytest
import torch

from masactrl.attention import Rows, Schedule, attach, find_layers
from masactrl.bench.attention_cost import (
    FORMS,
    Cost,
    CostSettings,
    _pipeline,
    _read_source,
    cost_page,
    cost_table,
    measure,
)
from masactrl.bench.explicit_attention import Explicit
from masactrl.errors import ConfigError

TINY = CostSettings(size=64, steps=2, tiny=True)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_can_be_measured(form: str) -> None:
    cost = measure(form, TINY)  # type: ignore[arg-type]
    assert cost.form == form
    assert cost.seconds > 0
    assert cost.peak > 2**20


def test_the_two_edits_that_are_compared_are_the_same_edit() -> None:
    def run(pipeline: object) -> torch.Tensor:
        generator = torch.Generator().manual_seed(0)
        text = torch.randn(2, 77, 768, generator=generator)
        result = pipeline(  # type: ignore[operator]
            prompt_embeds=text,
            negative_prompt_embeds=torch.zeros_like(text),
            latents=torch.randn(1, 4, 8, 8, generator=generator).repeat(2, 1, 1, 1),
            height=64,
            width=64,
            num_inference_steps=2,
            output_type="latent",
        )
        return result.images

    ours, explicit = _pipeline(TINY), _pipeline(TINY)
    plain = run(ours)
    with attach(
        ours, _read_source, rows=Rows.one_source(targets=1), schedule=Schedule(start_layer=10)
    ):
        edited = run(ours)
    for twice in (False, True):
        for layer in find_layers(explicit.unet):
            edit = layer.index >= 10
            layer.module.set_processor(Explicit(edit=edit, twice=edit and twice))
            assert layer.cross is not None
            layer.cross.set_processor(Explicit(edit=False))
        assert torch.allclose(run(explicit), edited, atol=1e-4)
    assert not torch.allclose(plain[1], edited[1], atol=1e-4)


def test_the_table() -> None:
    costs = (
        Cost(form="plain", seconds=1.0, peak=2**30),
        Cost(form="control", seconds=2.0, peak=3 * 2**29),
    )
    lines = cost_table(costs).splitlines()
    assert len(lines) == 4
    assert "2.000 | 2.00 | 1.50 | 1.50" in lines[-1]


@pytest.mark.parametrize(("seconds", "met"), [(2.0, True), (2.2, False)])
def test_the_page_says_which_aims_are_met(seconds: float, met: bool) -> None:
    costs = (
        Cost(form="plain", seconds=1.0, peak=2**30),
        Cost(form="control", seconds=seconds, peak=3 * 2**29),
        Cost(form="explicit", seconds=4.2, peak=2**32),
        Cost(form="official", seconds=6.6, peak=2**33),
    )
    page = cost_page(CostSettings(size=512, threads=2), costs)
    assert cost_table(costs) in page
    assert "Stable Diffusion 1.5's U-Net with random weights, 512x512, guidance on" in page
    assert f"time: {seconds:.2f} (aim 2.05): {'met' if met else 'not met'}" in page
    assert "peak memory: 1.50 (aim 1.6): met" in page
    assert f"{4.2 / seconds:.2f} (aim at least 2): {'met' if met else 'not met'}" in page
    assert "as in the paper's code over ours, time: 3." in page


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="multiples of 64"):
        CostSettings(size=100)
    with pytest.raises(ConfigError, match="at least 1 step"):
        CostSettings(steps=0)
