"""Steps that are solved bring a picture back where plain repetition would swing to and fro."""

from __future__ import annotations

from masactrl import EditRequest, load_pipeline
from masactrl.bench.real_tasks import real_tasks
from masactrl.pictures.images import tensor_to_image
from masactrl.puppets.renderer import render
from masactrl.runs.invert import InversionRequest, invert


def test_on_the_trained_model_solved_steps_come_back_better_than_guessed_ones() -> None:
    model = load_pipeline("puppets", device="cpu")
    task = real_tasks(2, 0)[1]
    picture = tensor_to_image(render([task.source], (256, 256)).image[0], signed=False)
    edit = EditRequest(target_prompts=(task.target_prompt,), compare=False)
    came = {
        name: invert(model, picture, InversionRequest(method=name, steps=10)).edit(edit).quality
        for name in ("ddim", "fixed-point")
    }
    assert came["fixed-point"].psnr > came["ddim"].psnr + 2
    assert came["fixed-point"].psnr > came["fixed-point"].ceiling - 2
