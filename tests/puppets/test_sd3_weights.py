"""`puppets-sd3`, the embedded SD3: loaded by name, controlled as any other, really trained."""

from __future__ import annotations

import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from masactrl import GenerateRequest, generate, load_pipeline
from masactrl.models import LoadedModel
from masactrl.pictures.images import image_to_tensor
from masactrl.puppets.identity import identity
from masactrl.puppets.inspector import Inspector
from masactrl.rerun.kinds import hub_id

SOURCE, TARGET = "a cat sitting in the snow, facing left", "a cat running in the snow, facing left"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    """The embedded SD3."""
    return load_pipeline("puppets-sd3", device="cpu")


def test_it_is_loaded_by_name_as_a_stock_pipeline_without_t5(model: LoadedModel) -> None:
    assert type(model.pipeline) is StableDiffusion3Pipeline
    assert model.pipeline.text_encoder_3 is None
    assert (model.name, model.family, model.origin.kind) == ("puppets-sd3",) * 2 + ("embedded",)


def test_source_and_plain_target_are_the_pipelines_own_and_control_keeps_the_animal(
    model: LoadedModel,
) -> None:
    asked = GenerateRequest(source_prompt=SOURCE, target_prompts=(TARGET,), seed=4, steps=10)
    made = generate(model, asked)
    target = made.targets[0]
    noise = torch.randn(1, 16, 32, 32, generator=torch.Generator().manual_seed(4))
    (plain,) = model.pipeline(
        SOURCE, latents=noise, num_inference_steps=10, guidance_scale=4.0
    ).images
    near = (image_to_tensor(plain) - image_to_tensor(made.source)).abs().max()
    assert near < 0.02  # batches of one and three round differently
    inspector = Inspector.load()
    pictures = torch.stack(
        [
            image_to_tensor(one, signed=False)
            for one in (made.source, target.controlled, target.uncontrolled)
        ]
    )
    seen = inspector.read(pictures)
    assert seen.species == ("cat",) * 3
    assert seen.action == ("sitting", "running", "running")
    source, controlled, uncontrolled = (inspector.read(one[None]) for one in pictures)
    kept, plain_error = (float(identity(source, x).error) for x in (controlled, uncontrolled))
    assert kept < 0.5 * plain_error
    assert hub_id(made.recipe("target1-controlled")) == "puppets-sd3"
