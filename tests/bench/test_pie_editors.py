"""PIE-Bench's editors: the published settings, and any inversion with any method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_models
from PIL import Image

from masactrl.batch.pie_data import PieItem
from masactrl.bench.pie_editors import pie_editors, published_scheduler
from masactrl.errors import ConfigError, PromptError
from masactrl.runs.invert import EditRequest, InversionRequest, invert

if TYPE_CHECKING:
    from masactrl.models import LoadedModel

SOURCE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))


def item(**changes: Any) -> PieItem:
    values = {
        "key": "000000000000",
        "image_path": "5_pose/0.jpg",
        "source_prompt": "a cat sitting",
        "target_prompt": "a dog sitting",
        "type_id": "5",
        "blended_word": (),
        "mask": np.zeros((512, 512), dtype=np.uint8),
        **changes,
    }
    return PieItem(**values)


def test_the_published_timesteps() -> None:
    scheduler = published_scheduler(tiny_models.scheduler())
    scheduler.set_timesteps(50)
    assert scheduler.timesteps.tolist() == list(range(980, -1, -20))
    for name in ("magic", "pie-ddim+magic", "ddim+magic", "magic+masactrl", "ddim+p2p"):
        with pytest.raises(ConfigError, match="There is no editor"):
            pie_editors(None, [name])
    with pytest.raises(ConfigError, match=r"INVERSION\+METHOD"):
        pie_editors(None, ["magic"])
    with pytest.raises(ConfigError, match="needs a model"):
        pie_editors(None, ["prompt-only"])


def test_every_editor_edits(model: LoadedModel) -> None:
    """Each another picture; the published ones are what their settings say."""
    model.pipeline.scheduler = published_scheduler(model.pipeline.scheduler)
    names = ["pie-ddim+masactrl", "pie-directinversion+masactrl", "prompt-only"]
    names += ["pie-ddim+p2p", "pie-directinversion+p2p", "nothing"]
    names += ["direct+plug-and-play", "virtual+unified", "edit-friendly+sdedit"]
    editors = pie_editors(model, names, steps=6)
    assert list(editors) == names
    made = {name: editor(item(), SOURCE) for name, editor in editors.items()}
    assert made["nothing"] is SOURCE
    assert len({picture.tobytes() for picture in made.values()}) == len(names)

    def edited(inversion: str, **values: Any) -> bytes:
        words = values.get("method") == "prompt-to-prompt"
        asked = InversionRequest(
            method=inversion, steps=6, source_prompt="a cat sitting" if words else ""
        )
        request = EditRequest(
            target_prompts=("a dog sitting",), guidance_scale=7.5, compare=False, **values
        )
        return invert(model, SOURCE, asked).edit(request).targets[0].controlled.tobytes()

    masactrl = {"start_step": 4, "start_layer": 10, "mode": "joint"}
    assert edited("direct", **masactrl) == made["pie-directinversion+masactrl"].tobytes()
    assert edited("ddim", **masactrl) == made["pie-ddim+masactrl"].tobytes()
    options = {"cross": 0.4, "self_attention": 0.6, "self_tokens": 1024}
    p2p = {"method": "prompt-to-prompt", "method_options": options}
    # Put back at every step, a source does not depend on its guidance; free, it does.
    assert edited("direct", **p2p) == made["pie-directinversion+p2p"].tobytes()
    assert edited("ddim", **p2p) != made["pie-ddim+p2p"].tobytes()


def test_blended_words_are_blended(model: LoadedModel) -> None:
    editor = pie_editors(model, ["pie-directinversion+p2p"], steps=4)["pie-directinversion+p2p"]
    with pytest.raises(PromptError, match=r"'horse' is in none of the target prompts|local blend"):
        editor(item(blended_word=("cat", "horse")), SOURCE)
    with pytest.raises(PromptError, match="names one blended word, 'cat'"):
        editor(item(blended_word=("cat",)), SOURCE)


def test_brackets_in_the_data_are_letters_and_no_weights(model: LoadedModel) -> None:
    """The published prompts were never read as a web UI reads them."""
    (editor,) = pie_editors(model, ["pie-ddim+p2p"], steps=6).values()
    named = item(source_prompt="a cat (big)", target_prompt="a dog (big)")
    assert editor._inversion(named).source_prompt == r"a cat \(big\)"
    assert editor._request(named).target_prompts == (r"a dog \(big\)",)
    assert editor._request(item()).target_prompts == ("a dog sitting",)
