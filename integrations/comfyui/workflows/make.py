"""Make the example workflows anew: the input pictures, the graphs, and their pictures.

    python make.py inputs FOLDER                  draw photo.png and the skeletons (needs masactrl)
    python make.py workflows --server URL         write the .json files, from the host's node list
    python make.py run --server URL [NAME ...]   let the host make pictures; PNGs hold the graph

The server is a ComfyUI with these nodes, puppets.safetensors in its checkpoints and the pictures
of `inputs` in its input folder.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
STEPS, CFG, SEED = 20, 4.0, 11
STEPS_ANIMATION = 12
PHOTO = ("a cat sitting in the meadow, facing left", "a cat running in the meadow, facing left")
"""What the photo shows and what its animal is to do: a drawn scene that the model never saw."""


def _drawn(source: str, targets: str, *, seed: int, steps: int) -> dict[str, Any]:
    """From a model and prompts to pictures: what three of the workflows have in common."""
    return {
        "model": ("MasaCtrlLoadSmall", {"file": "puppets.safetensors"}),
        "words": (
            "MasaCtrlPrompts",
            {"clip": ("model", 1), "source": source, "targets": targets},
        ),
        "none": ("CLIPTextEncode", {"clip": ("model", 1), "text": ""}),
        "empty": ("EmptyLatentImage", {"width": 256, "height": 256, "batch_size": 1}),
        "start": (
            "MasaCtrlSource",
            {
                "model": ("model", 0),
                "latent": ("empty", 0),
                "targets": ("words", 2),
                "kind": "drawn beside its targets",
                "seed": seed,
                "steps": steps,
                "scheduler": "simple",
            },
        ),
        "control": ("MasaCtrl", _control(start_layer="output.6", watch_layer="output.6")),
        "sampler": (
            "KSampler",
            {
                "model": ("control", 0),
                "positive": ("words", 0),
                "negative": ("none", 0),
                "latent_image": ("start", 0),
                "seed": seed,
                "steps": steps,
                "cfg": CFG,
                "sampler_name": "ddim",
                "scheduler": "simple",
                "denoise": 1.0,
            },
        ),
        "pictures": ("VAEDecode", {"samples": ("sampler", 0), "vae": ("model", 2)}),
    }


def _control(**options: Any) -> dict[str, Any]:
    usual = {
        "model": ("model", 0),
        "start_by": "preset",
        "start_step": 4,
        "start_percent": 0.08,
        "start_layer": "preset",
        "form": "replace",
        "strength": 1.0,
        "sources": 1,
        "watch_layer": "",
    }
    return {**usual, **options}


def _saved(name: str, images: tuple[str, int] = ("pictures", 0)) -> tuple[str, dict[str, Any]]:
    return "SaveImage", {"images": images, "filename_prefix": f"masactrl_{name}"}


def _layout(hints: str) -> dict[str, Any]:
    """A ControlNet for the whole batch: one skeleton a row, the source's own first."""
    return {
        "net": ("MasaCtrlEmbeddedControlNet", {}),
        "hints": ("LoadImage", {"image": hints}),
        "led": (
            "ControlNetApplyAdvanced",
            {
                "positive": ("words", 0),
                "negative": ("none", 0),
                "control_net": ("net", 0),
                "image": ("hints", 0),
                "strength": 1.0,
                "start_percent": 0.0,
                "end_percent": 1.0,
            },
        ),
    }


def workflows() -> dict[str, dict[str, Any]]:
    """Name -> node -> (class, inputs); an input that is a pair (node, output) is a link."""
    lines = "\n".join(
        f"a cat {action} in the meadow" for action in ("running", "sitting", "jumping")
    )
    consistent = _drawn("a cat standing in the meadow", lines, seed=SEED, steps=STEPS)
    look = {"views": ("control", 1), "images": ("pictures", 0), "x": 0.5, "y": 0.62, "target": 1}
    consistent["look"] = ("MasaCtrlLook", look)
    consistent["save"] = _saved("consistent_set")
    consistent["save look"] = _saved("where_did_it_look", ("look", 0))

    photo = _drawn(*PHOTO, seed=1, steps=50)
    del photo["empty"]
    photo["photo"] = ("LoadImage", {"image": "photo.png"})
    photo["encoded"] = ("VAEEncode", {"pixels": ("photo", 0), "vae": ("model", 2)})
    photo["start"][1].update(
        latent=("encoded", 0), kind="a photo, inverted (Euler)", source_prompt=("words", 1)
    )
    photo["control"] = ("MasaCtrl", _control(start_layer="output.6", source=("start", 1)))
    photo["sampler"] = (
        "KSamplerAdvanced",
        {
            "model": ("control", 0),
            "positive": ("words", 0),
            "negative": ("none", 0),
            "latent_image": ("start", 0),
            "add_noise": "disable",
            "noise_seed": 1,
            "steps": 50,
            "cfg": CFG,
            "sampler_name": "ddim",
            "scheduler": "simple",
            "start_at_step": 0,
            "end_at_step": 10000,
            "return_with_leftover_noise": "disable",
        },
    )
    photo["save"] = _saved("photo")

    posed = _drawn(
        "a cat standing in the snow, facing left",
        "a cat in the snow, facing left\na cat in the snow, facing left",
        seed=5,
        steps=STEPS,
    )
    posed |= _layout("poses.png")
    posed["save"] = _saved("with_controlnet")

    moving = _drawn(
        "a cat standing in the meadow, facing left",
        "\n".join(["a cat running in the meadow, facing left"] * 6),
        seed=SEED,
        steps=STEPS_ANIMATION,
    )
    moving |= _layout("run.png")
    moving["frames"] = ("ImageFromBatch", {"image": ("pictures", 0), "batch_index": 1, "length": 6})
    moving["film"] = (
        "SaveAnimatedWEBP",
        {
            "images": ("frames", 0),
            "filename_prefix": "masactrl_animation",
            "fps": 8.0,
            "lossless": False,
            "quality": 90,
            "method": "default",
        },
    )
    moving["save"] = _saved("animation")
    for graph in (posed, moving):
        graph["sampler"][1].update(positive=("led", 0), negative=("led", 1))
    return {
        "consistent_set": consistent,
        "photo": photo,
        "with_controlnet": posed,
        "animation": moving,
    }


def as_prompt(graph: dict[str, Any]) -> dict[str, Any]:
    """The form of the host's API."""
    numbers = {name: str(number) for number, name in enumerate(graph, 1)}

    def value(given: Any) -> Any:
        return [numbers[given[0]], given[1]] if isinstance(given, tuple) else given

    return {
        numbers[name]: {
            "class_type": kind,
            "inputs": {key: value(given) for key, given in inputs.items()},
            "_meta": {"title": name},
        }
        for name, (kind, inputs) in graph.items()
    }


def as_workflow(graph: dict[str, Any], known: dict[str, Any]) -> dict[str, Any]:
    """The form that the host's page opens; nodes stand in columns, from left to right."""
    numbers = {name: number for number, name in enumerate(graph, 1)}
    links: list[list[Any]] = []
    nodes: list[dict[str, Any]] = []
    outgoing: dict[tuple[str, int], list[int]] = {}
    heights: dict[int, int] = {}
    depth: dict[str, int] = {}

    def column(name: str) -> int:
        if name not in depth:
            before = [g[0] for g in graph[name][1].values() if isinstance(g, tuple)]
            depth[name] = 1 + max(map(column, before), default=-1)
        return depth[name]

    for name, (kind, inputs) in graph.items():
        about = known[kind]
        slots, widgets = [], []
        for key, said in {
            **about["input"].get("required", {}),
            **about["input"].get("optional", {}),
        }.items():
            options = said[1] if len(said) > 1 else {}
            written = isinstance(said[0], list) or said[0] in (
                "INT",
                "FLOAT",
                "STRING",
                "BOOLEAN",
                "COMBO",
            )
            given = inputs.get(key)
            if isinstance(given, tuple):
                links.append(
                    [
                        len(links) + 1,
                        numbers[given[0]],
                        given[1],
                        numbers[name],
                        len(slots),
                        said[0],
                    ]
                )
                outgoing.setdefault(given, []).append(len(links))
                slots.append({"name": key, "type": said[0], "link": len(links)})
                if written:
                    slots[-1]["widget"] = {"name": key}
            elif not written:
                slots.append({"name": key, "type": said[0], "link": None})
            if written:
                widgets.append(
                    options.get("default") if isinstance(given, tuple) or given is None else given
                )
                if key in ("seed", "noise_seed"):
                    widgets.append("fixed")
                if options.get("image_upload"):
                    widgets.append("image")
        place = column(name)
        top = heights.get(place, 0)
        size = [320, 80 + 26 * (len(widgets) + len(slots))]
        heights[place] = top + size[1] + 60
        nodes.append(
            {
                "id": numbers[name],
                "type": kind,
                "pos": [380 * place, top],
                "size": size,
                "flags": {},
                "order": len(nodes),
                "mode": 0,
                "inputs": slots,
                "outputs": [
                    {"name": title, "type": made, "links": [], "slot_index": slot}
                    for slot, (title, made) in enumerate(
                        zip(about["output_name"], about["output"], strict=True)
                    )
                ],
                "properties": {"Node name for S&R": kind},
                "widgets_values": widgets,
            }
        )
    for (name, slot), found in outgoing.items():
        nodes[numbers[name] - 1]["outputs"][slot]["links"] = found
    return {
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": nodes,
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _inputs(folder: Path) -> None:
    from PIL import Image

    from masactrl.app.drawn import drawn_examples
    from masactrl.puppets.gaits import gait_skeleton

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as name:
        for path, shown, asked in drawn_examples(Path(name)):
            if (shown, asked) == PHOTO:
                Image.open(path).save(folder / "photo.png")
    own: dict[str, Any] = {"species": "cat", "facing": "left", "size": 256}
    standing = gait_skeleton("walk", 2, 0, **own)
    for name, gait, chosen in (("poses", "jump", (2, 5)), ("run", "run", range(6))):
        rest = [gait_skeleton(gait, 6, number, **own) for number in chosen]
        standing.save(folder / f"{name}.png", save_all=True, append_images=rest)


def _known(server: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{server}/object_info") as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def _run(server: str, names: list[str], folder: Path) -> None:
    known, client = _known(server), "masactrl"
    for name, graph in workflows().items():
        if names and name not in names:
            continue
        body = {
            "prompt": as_prompt(graph),
            "client_id": client,
            "extra_data": {"extra_pnginfo": {"workflow": as_workflow(graph, known)}},
        }
        begun = time.monotonic()
        asked = urllib.request.Request(
            f"{server}/prompt", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked) as answer:
            number = json.load(answer)["prompt_id"]
        while True:
            with urllib.request.urlopen(f"{server}/history/{number}") as answer:
                history = json.load(answer)
            if number in history:
                break
            time.sleep(1)
        state = history[number]["status"]
        if state["status_str"] != "success":
            sys.exit(f"{name}: {json.dumps(state['messages'][-1], indent=1)[:3000]}")
        written = []
        for made in history[number]["outputs"].values():
            for one in made.get("images", ()):
                query = urllib.parse.urlencode(
                    {k: one[k] for k in ("filename", "subfolder", "type")}
                )
                with urllib.request.urlopen(f"{server}/view?{query}") as answer:
                    (folder / one["filename"]).write_bytes(answer.read())
                written.append(folder / one["filename"])
        _sheet(folder / f"{name}.png", [p for p in written if p.suffix == ".png"])
        print(f"{folder / name}.png: {time.monotonic() - begun:.0f} s")


def _sheet(path: Path, pictures: list[Path]) -> None:
    """All pictures of a workflow side by side, with its graph: the page opens what is dropped."""
    from PIL import Image, PngImagePlugin

    opened = [Image.open(one) for one in pictures]
    height = max(one.height for one in opened)
    sheet = Image.new("RGB", (sum(one.width for one in opened), height), "white")
    left = 0
    for one in opened:
        sheet.paste(one, (left, 0))
        left += one.width
    told = PngImagePlugin.PngInfo()
    for key in ("prompt", "workflow"):
        told.add_text(key, opened[0].info[key])
    sheet.save(path, pnginfo=told, optimize=True)


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["inputs", "workflows", "run"])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--server", default="http://127.0.0.1:8188")
    parser.add_argument("--out", type=Path, default=Path("pictures"))
    given = parser.parse_args()
    if given.what == "inputs":
        _inputs(Path(given.names[0]))
    elif given.what == "workflows":
        known = _known(given.server)
        for name, graph in workflows().items():
            text = json.dumps(as_workflow(graph, known), indent=1)
            (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    else:
        given.out.mkdir(parents=True, exist_ok=True)
        _run(given.server, given.names, given.out)


if __name__ == "__main__":
    main()
