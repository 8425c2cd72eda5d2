"""What a click on Run does beside pictures: mistakes, no memory and Stop are sentences."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

gr = pytest.importorskip("gradio", reason="the studio needs the extra app")

from masactrl.app import page, parts, tab  # noqa: E402
from masactrl.app.drawn import drawn_examples  # noqa: E402
from masactrl.app.edit_fields import edit_fields  # noqa: E402
from masactrl.app.fields import Limits  # noqa: E402
from masactrl.app.requests import set_request  # noqa: E402
from masactrl.app.visit import Stopped  # noqa: E402
from masactrl.cli import main  # noqa: E402
from masactrl.errors import ConfigError  # noqa: E402
from masactrl.models import default_preset  # noqa: E402
from masactrl.pictures.images import image_to_tensor  # noqa: E402
from masactrl.puppets.captions import parse  # noqa: E402
from masactrl.puppets.inspector import Inspector  # noqa: E402
from masactrl.runs.model_spec import ModelSpec  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
REQUEST: Any = SimpleNamespace(session_hash="one")
STUDIO: Any = SimpleNamespace(claim=lambda *_: None)
LIMITS = Limits(preset=default_preset("sd", height=64, width=64), layers=16)
NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:127] data. DefaultCPUAllocator: can't allocate memory: you "
        "tried to allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
    ),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.00 GB)"),
    MemoryError(),
]


def clicked(error: Exception, *values: Any) -> Any:
    """Run the function behind the button, in a run that ends with the error."""

    def runner(session: str, asked: Any, report: Any) -> Any:
        raise error

    names = [f"field{number}" for number in range(len(values))]
    return tab._handler(STUDIO, runner, names)(REQUEST, lambda *_, **__: None, *values)


@pytest.mark.parametrize("error", NO_MEMORY, ids=lambda one: str(one)[:20])
def test_no_memory_says_what_to_lower(error: Exception) -> None:
    with pytest.raises(gr.Error, match="no memory left for this; lower width and height"):
        clicked(error)


def test_a_mistake_of_ours_is_not_taken_for_memory() -> None:
    with pytest.raises(RuntimeError, match="shapes of memory"):
        clicked(RuntimeError("The shapes of memory differ."))


def test_a_sentence_names_files_without_the_server_s_folders() -> None:
    with pytest.raises(gr.Error) as caught:
        clicked(ConfigError("/tmp/gradio/a/b.png is no picture."), "/tmp/gradio/a/b.png", 5, None)
    assert caught.value.message == "b.png is no picture."
    assert caught.value.print_exception is False


def test_a_stopped_run_leaves_the_page_as_it_is() -> None:
    assert clicked(Stopped("Stopped.")) == [gr.skip()] * 7


def test_pictures_reach_a_run_as_they_were_sent(tmp_path: Path) -> None:
    """Gradio would convert grey and transparent ones, and the recipe name another file."""
    path = tmp_path / "a.png"
    path.write_text("no picture")
    (field,) = (one for one in edit_fields(LIMITS) if one.name == "picture")
    drawn = parts.draw(field)
    assert drawn.preprocess(SimpleNamespace(path=str(path))) == str(path)
    assert drawn.preprocess(None) is None
    assert drawn.get_block_name() == "image"


class Served:
    """Stands for a page."""

    def launch(self, **options: Any) -> tuple[None, str, None]:
        self.options = options
        return None, "http://127.0.0.1:1", None


def test_the_page_is_for_this_machine_and_large_files_are_refused() -> None:
    served: Any = Served()
    page.serve(served, port=1)
    told = served.options
    assert (told["server_name"], told["share"], told["inbrowser"]) == ("127.0.0.1", False, False)
    assert told["max_file_size"] == "50mb"


def test_the_command_shares_nothing_and_leaves_nothing(
    model: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(ModelSpec, "load", lambda _self: model)
    monkeypatch.setattr(page, "build", lambda studio: studio)

    def serve(studio: Any, **options: Any) -> None:
        told.update(options, studio=studio, root=studio._root, there=studio._root.is_dir())

    monkeypatch.setattr(page, "serve", serve)
    assert main(["app", "--port", "0"]) == 0
    assert (told["host"], told["share"], told["browser"]) == ("127.0.0.1", False, True)
    assert (told["there"], told["root"].exists()) == (True, False)
    assert "The studio is at http://127.0.0.1:" in capsys.readouterr().err
    assert main(["app", "--port", "0", "--share", "--no-browser", "--host", "localhost"]) == 0
    assert (told["host"], told["share"], told["browser"]) == ("localhost", True, False)


def test_the_examples_are_runs_of_the_embedded_world() -> None:
    names = ("source_prompt", "target_prompts", "seed", "steps", "start_step")
    for values in page._EXAMPLES:
        request = set_request(
            {**dict(zip(names, values, strict=True)), "method": "masactrl"},
        )
        assert (request.steps or 50) <= 12, "seconds on a CPU"
        for prompt in (request.source_prompt, *request.target_prompts):
            said = parse(prompt)
            assert said.species is not None, prompt
            assert said.action is not None, prompt


def test_a_photo_tab_has_drawn_animals_to_try(tmp_path: Path) -> None:
    found = drawn_examples(tmp_path / "drawn")
    assert len(found) >= 3
    inspector = Inspector.load()
    for path, shown, asked in found:
        seen = inspector.read(image_to_tensor(Image.open(path), signed=False)[None])
        was, wanted = parse(shown), parse(asked)
        assert (seen.species[0], seen.action[0]) == (was.species, was.action)
        assert (wanted.species, wanted.place, wanted.facing) == (was.species, was.place, was.facing)
        assert wanted.action not in (None, was.action)
