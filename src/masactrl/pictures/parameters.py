"""How other tools say a picture was made: AUTOMATIC1111's and Forge's text, ComfyUI's graph.

    a cat sitting on a chair                                    prompt, one line or several
    Negative prompt: blurry
    Steps: 20, Sampler: Euler a, CFG scale: 7, Seed: 42, Size: 512x768, Model hash: 6ce0161689

The text is in the PNG chunk "parameters", or in the EXIF comment of a JPEG or WebP; ComfyUI writes
the graph that it ran as JSON into the chunk "prompt". A file may come from anyone: what is read is
text and numbers, nothing in it is run or opened.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from masactrl.errors import ConfigError
from masactrl.pictures.images import DAMAGED

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Parameters", "parse_graph", "parse_text", "read_parameters"]

_PAIR: Final = re.compile(r'\s*([^:,"]+):\s*("(?:\\.|[^"\\])*"|[^,]*)\s*(?:,|$)')
_LORA: Final = re.compile(r"<(?:lora|lyco|hypernet):[^<>]*>")
_NEGATIVE: Final = "Negative prompt:"
_EXIF, _COMMENT = 0x8769, 0x9286
_DEEPEST: Final = 200  # nodes that are followed from a sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """What a picture says of itself; None is what it does not say.

    `clip_skip` counts as here, where 0 leaves out nothing; web UIs count one more. `extra_networks`
    are the LoRA tags of the prompt, which are taken out of it.
    """

    prompt: str
    negative_prompt: str = ""
    steps: int | None = None
    guidance_scale: float | None = None
    seed: int | None = None
    size: tuple[int, int] | None = None
    clip_skip: int | None = None
    sampler: str | None = None
    model: str | None = None
    model_hash: str | None = None
    extra_networks: tuple[str, ...] = ()


def read_parameters(path: Path) -> Parameters:
    """Read what a picture says of itself.

    Raises:
        ConfigError: the file is missing or no picture, says nothing, or nothing that can be read.
    """
    try:
        with Image.open(path) as image:
            image.load()  # text chunks may follow the pixels
            told = {name: text for name, text in image.info.items() if isinstance(text, str)}
            comment = image.getexif().get_ifd(_EXIF).get(_COMMENT)
    except FileNotFoundError as error:
        raise ConfigError(f"There is no file {path}.") from error
    except DAMAGED as error:
        raise ConfigError(f"{path} cannot be read as a picture: {error}.") from error
    if text := told.get("parameters") or _decoded(comment):
        return parse_text(text, str(path))
    if graph := told.get("prompt"):
        return parse_graph(graph, str(path))
    raise ConfigError(
        f"{path} does not say how it was made. Read are the text of AUTOMATIC1111 and Forge and "
        "the graph of ComfyUI, as those programs write them: editors, messengers and web pages "
        "drop both."
    )


def parse_text(text: str, whose: str = "The text") -> Parameters:
    """Read AUTOMATIC1111's text.

    Raises:
        ConfigError: it holds no prompt and no settings.
    """
    lines = text.strip().splitlines()
    settings: dict[str, str] = {}
    if lines and len(found := _PAIR.findall(lines[-1])) > 2 and "Steps" in dict(found):
        settings = {name.strip(): value.strip().strip('"') for name, value in found}
        lines.pop()
    begins = next((i for i, line in enumerate(lines) if line.startswith(_NEGATIVE)), len(lines))
    prompt = "\n".join(lines[:begins]).strip()
    negative = "\n".join(lines[begins:]).removeprefix(_NEGATIVE).strip()
    if not prompt and not settings:
        raise ConfigError(f"{whose} holds no prompt and no settings that can be read.")
    size = re.fullmatch(r"(\d{1,5})x(\d{1,5})", settings.get("Size", ""))
    skip = _whole(settings.get("Clip skip"))
    return Parameters(
        prompt=_LORA.sub("", prompt).strip(),
        negative_prompt=_LORA.sub("", negative).strip(),
        steps=_whole(settings.get("Steps")),
        guidance_scale=_number(settings.get("CFG scale")),
        seed=_whole(settings.get("Seed")),
        size=(int(size[1]), int(size[2])) if size else None,
        clip_skip=None if skip is None else max(skip - 1, 0),
        sampler=settings.get("Sampler"),
        model=settings.get("Model"),
        model_hash=settings.get("Model hash"),
        extra_networks=tuple(_LORA.findall(prompt)),
    )


def parse_graph(text: str, whose: str = "The text") -> Parameters:
    """Read ComfyUI's graph: the first sampler that starts from an empty latent, else the first.

    Raises:
        ConfigError: it is no such graph, or it holds no sampler whose prompt is written in it.
    """
    try:
        graph = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{whose} has a graph of ComfyUI that is damaged: {error}.") from error
    listed = graph if isinstance(graph, dict) else {}
    nodes = {
        name: node
        for name, node in listed.items()
        if isinstance(node, dict) and isinstance(node.get("inputs"), dict)
    }
    samplers = [n["inputs"] for n in nodes.values() if "positive" in n["inputs"] and _seeded(n)]
    samplers.sort(key=lambda inputs: _size(nodes, inputs) is None)
    if not samplers:
        raise ConfigError(
            f"{whose} has a graph of ComfyUI without a sampler that has prompts (KSampler, "
            "SamplerCustom); give the settings yourself."
        )
    inputs = samplers[0]
    prompt = _words(nodes, inputs["positive"], "positive")
    if prompt is None:
        raise ConfigError(
            f"{whose} has a graph of ComfyUI whose prompt is not written in it (other nodes make "
            "it); give the prompt yourself."
        )
    skip = _upstream(nodes, inputs["positive"], "stop_at_clip_layer")
    names = ("ckpt_name", "unet_name", "file")
    found = (_upstream(nodes, inputs.get("model"), name) for name in names)
    model = next((one for one in found if isinstance(one, str)), None)
    return Parameters(
        prompt=prompt.strip(),
        negative_prompt=(_words(nodes, inputs.get("negative"), "negative") or "").strip(),
        steps=_whole(_value(nodes, inputs.get("steps"))),
        guidance_scale=_number(_value(nodes, inputs.get("cfg"))),
        seed=_whole(_value(nodes, inputs.get("seed", inputs.get("noise_seed")))),
        size=_size(nodes, inputs),
        clip_skip=-skip - 1 if isinstance(skip, int) and skip < 0 else None,
        sampler=inputs.get("sampler_name") if isinstance(inputs.get("sampler_name"), str) else None,
        model=model,
    )


def _seeded(node: Mapping[str, Any]) -> bool:
    return bool({"seed", "noise_seed"} & node["inputs"].keys())


def _linked(nodes: Mapping[str, Any], given: Any) -> Mapping[str, Any] | None:
    """The inputs of the node that a value comes from; None where it is written down."""
    if isinstance(given, list) and len(given) == 2 and isinstance(given[0], str):
        node = nodes.get(given[0])
        return None if node is None else node["inputs"]
    return None


def _value(nodes: Mapping[str, Any], given: Any) -> Any:
    """A number or text, also where a node of the host's hands it over."""
    inputs = _linked(nodes, given)
    if inputs is None:
        return given
    return next(
        (inputs[name] for name in ("value", "seed", "int", "float") if name in inputs), None
    )


def _words(nodes: Mapping[str, Any], given: Any, side: str) -> str | None:
    """The text that a conditioning is made of, followed through what lies between."""
    for _ in range(_DEEPEST):
        inputs = _linked(nodes, given)
        if inputs is None:
            return None
        for name in ("text", "source", "text_g", "prompt", "value", "string"):
            written = inputs.get(name)
            if isinstance(written, str):
                return written
            if name in ("text", "text_g") and _linked(nodes, written) is not None:
                return _words(nodes, written, side)
        names = (side, "conditioning", "conditioning_1", "conditioning_to", "cond", "any")
        given = next((inputs[one] for one in names if one in inputs), None)
    return None


def _walk(nodes: Mapping[str, Any], given: Any) -> Iterator[Mapping[str, Any]]:
    """The inputs of all nodes before a link, nearest first, each once."""
    waiting, seen = [given], 0
    known: set[int] = set()
    while waiting and seen < _DEEPEST:
        inputs = _linked(nodes, waiting.pop(0))
        if inputs is None or id(inputs) in known:
            continue
        known.add(id(inputs))
        seen += 1
        yield inputs
        waiting += inputs.values()


def _upstream(nodes: Mapping[str, Any], given: Any, name: str) -> Any:
    """The nearest written value of an input before a link; None if there is none."""
    return next((i[name] for i in _walk(nodes, given) if isinstance(i.get(name), str | int)), None)


def _size(nodes: Mapping[str, Any], inputs: Mapping[str, Any]) -> tuple[int, int] | None:
    for found in _walk(nodes, inputs.get("latent_image")):
        if "batch_size" in found:
            width, height = (_whole(_value(nodes, found.get(one))) for one in ("width", "height"))
            return (width, height) if width and height else None
    return None


def _whole(given: Any) -> int | None:
    found = _number(given)
    if found is None or not float(found).is_integer():
        return None
    return int(given) if isinstance(given, int | str) and str(given).isdigit() else int(found)


def _number(given: Any) -> float | None:
    if isinstance(given, bool) or not isinstance(given, str | int | float):
        return None
    try:
        found = float(given)
    except (ValueError, OverflowError):
        return None
    return found if abs(found) < 2**64 else None


def _decoded(comment: Any) -> str:
    """An EXIF comment: eight bytes that name the encoding, then the text."""
    if isinstance(comment, str):
        return comment
    if not isinstance(comment, bytes):
        return ""
    kind, text = comment[:8], comment[8:]
    if kind.startswith(b"UNICODE"):
        return max(
            (text.decode(one, errors="ignore") for one in ("utf-16-be", "utf-16-le")),
            key=lambda words: sum(letter.isascii() for letter in words),
        ).strip("\0")
    return text.decode("utf-8", errors="ignore").strip("\0")
