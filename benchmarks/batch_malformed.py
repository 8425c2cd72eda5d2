"""Malformed inputs from a seeded generator: each ends in a sentence or in a right result.

    python benchmarks/batch_malformed.py [--count 5000] [--seed 0] [-o docs/guides/many_edits.md]

Manifests, recipes, sessions, pictures, masks, layouts, LoRA files, settings and prompts go through
the command line, on the embedded model with few and small steps. Wrong is a traceback, an exception
that nobody foresaw, an exit that is none of ours, more than 10 s (of one core) or 1 GB, or a
process that dies or hangs.
Every kind runs in a process of its own; what was wrong is printed with its number, from which
`--only KIND:NUMBER` makes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import random
import resource
import signal
import string
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from page import write_into

SHARES = {
    "manifest": 1600,
    "recipe": 900,
    "setting": 900,
    "picture": 500,
    "prompt": 400,
    "mask": 300,
    "layout": 150,
    "session": 150,
    "lora": 100,
}
SECONDS, BYTES = 10.0, 10**9
EXITS = (0, 1, 2, 130)

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 10**30, -(10**18), 2**63, 0.5, -0.0, 1e308, 1e-320, "", " ",
    "a", "\n", "\t", "\0", "\ud800", "\u202e", "\ufeff", "NaN", "inf", "-inf", "1e999", "0x10",
    "None", "true", "[", "{", "]", "((((", "(a:1e9)", "(a:-1)", "(a:nan)", "(:)", "\\(",
    "a" * 10_000, "\u732b" * 300, "\U0001f408", "e\u0301" * 50, "../../etc/passwd",
    "/dev/zero", "/", "~", "con", "a=b", "=", "pose=", "pose=x.png", "%s%n",
    "{}", "{0.__class__}", "<script>", "'; --",
    [], {}, [[]], {"a": {}}, ["a", 1], [None], [""], [["a"]], {"": ""}, "512x512", "x", "16x16x16",
)  # fmt: skip


def nasty(chance: random.Random) -> Any:
    """A value that somebody might give."""
    if chance.random() < 0.2:
        letters = string.printable + "\u00e9\u732b\u2028\u0000"
        return "".join(chance.choice(letters) for _ in range(chance.randint(0, 40)))
    return chance.choice(NASTY)


def bent(content: bytes, chance: random.Random) -> bytes:
    """Bytes with some of them wrong."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 5, 40))):
        at = chance.randrange(len(data) + 1)
        span = chance.choice((1, 1, 4, 8, 64, 1024))
        match chance.randrange(8):
            case 0 if data:
                data[at % len(data)] = chance.randrange(256)
            case 1:
                del data[at:]
            case 2:
                del data[at : at + span]
            case 3:
                data[at:at] = bytes(chance.randrange(256) for _ in range(span))
            case 4:
                data[at : at + span] = bytes(len(data[at : at + span]))
            case 5:
                data[at : at + 4] = chance.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0"))
            case 6:
                data[at:at] = data[max(0, at - span) : at]
            case _ if data:
                data[at % len(data)] ^= 1 << chance.randrange(8)
    return bytes(data)


def twisted(value: Any, chance: random.Random) -> Any:
    """JSON with one thing wrong somewhere in it."""
    if isinstance(value, dict) and value and chance.random() < 0.9:
        made, name = dict(value), chance.choice([*value])
        match chance.randrange(6):
            case 0:
                del made[name]
            case 1:
                made[str(nasty(chance))] = made.pop(name)
            case 2:
                made[str(nasty(chance))] = nasty(chance)
            case 3:
                made[name] = nasty(chance)
            case _:
                made[name] = twisted(value[name], chance)
        return made
    if isinstance(value, list) and value and chance.random() < 0.8:
        at = chance.randrange(len(value))
        if chance.random() < 0.3:
            return [*value, nasty(chance)] if chance.random() < 0.5 else value[:at]
        return [*value[:at], twisted(value[at], chance), *value[at + 1 :]]
    return nasty(chance)


@dataclass
class Ground:
    """What all inputs are bent from."""

    folder: Path

    def __post_init__(self) -> None:
        import numpy as np
        from PIL import Image

        from masactrl.cli import main

        self.folder.mkdir(exist_ok=True)
        pixels = np.random.default_rng(0).integers(0, 255, (16, 24, 3), dtype=np.uint8)
        picture = Image.fromarray(pixels)
        self.pictures = {}
        for ending in ("png", "jpg", "gif", "bmp", "tiff", "webp"):
            path = self.folder / f"good.{ending}"
            picture.save(path)
            self.pictures[ending] = path.read_bytes()
        grey = Image.new("L", (24, 16))
        grey.paste(255, (4, 4, 16, 12))
        grey.save(self.folder / "mask.png")
        self.good = str(self.folder / "good.png")
        small = ["--steps", "2", "--start-step", "1", "--device", "cpu"]
        words = ["generate", "a cat", "--to", "a dog", "--size", "16x16", *small]
        run(main, [*words, "-o", str(self.folder / "made")])
        edit = ["edit", self.good, "--to", "a dog", "--fit", "keep", *small]
        run(main, [*edit, "-o", str(self.folder / "edited"), "--session", str(self.session)])
        self.recipes = [
            json.loads(path.read_text()) for path in sorted(self.folder.glob("*/sheet.json"))
        ]
        self.main = main

    @property
    def session(self) -> Path:
        """An inverted picture."""
        return self.folder / "good.safetensors"

    def lora(self) -> Path:
        """A LoRA of the embedded model, of nothing but zeros and noise."""
        import torch
        from safetensors.torch import save_file

        from masactrl.models import load_pipeline

        path, unet = self.folder / "lora.safetensors", load_pipeline(device="cpu").pipeline.unet
        if not path.exists():
            tensors = {}
            for name, module in unet.named_modules():
                if name.endswith("attn1.to_q"):
                    out, into = module.weight.shape
                    tensors[f"unet.{name}.lora_A.weight"] = torch.randn(2, into)
                    tensors[f"unet.{name}.lora_B.weight"] = torch.zeros(out, 2)
            save_file(tensors, path)
        return path


def run(main: Callable[[list[str]], int], words: list[str]) -> tuple[int, str]:
    """Run a command; return its exit and what it said."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        code = main(words)
    return code, shown.getvalue()


SMALL = ("--steps", "2", "--start-step", "1", "--size", "16x16", "--device", "cpu", "--overwrite")


def manifest(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A manifest with something wrong in it."""
    rows: list[Any] = [
        {"file_name": "good.png", "target_prompt": "a dog", "fit": "keep", "steps": 2, "x": 1},
        {"file_name": "good.png", "target_prompt": ["a dog", "a fox"], "mask": "mask.png"},
        {"source_prompt": "a cat", "target_prompt": "a dog", "size": "16x16", "seed": 4},
        {"source_prompt": "a cat", "target_prompt": "a dog", "method": "sdedit",
         "method_option": {"strength": 0.5}, "height": 16, "width": 16},
    ]  # fmt: skip
    rows = [twisted(row, chance) if chance.random() < 0.6 else row for row in rows]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    ending = "jsonl"
    if chance.random() < 0.3:
        ending, table = "csv", io.StringIO()
        names = [*dict.fromkeys(n for row in rows if isinstance(row, dict) for n in row)]
        writer = csv.writer(table)
        writer.writerow(names)
        for row in rows:
            if isinstance(row, dict):
                cells = [row.get(name, "") for name in names]
                writer.writerow([c if isinstance(c, str) else json.dumps(c) for c in cells])
        text = table.getvalue()
    content = text.encode("utf-8", errors="surrogatepass")
    if chance.random() < 0.3:
        content = bent(content, chance)
    path = ground.folder / f"bent.{ending}"
    path.write_bytes(content)
    words = ["batch", str(path), "-o", str(out), "--device", "cpu"]
    if chance.random() < 0.3:
        words += ["--set", f"{chance.choice(['steps', 'cfg', 'to', 'x'])}={nasty(chance)}"]
    return words + (["--plan"] if chance.random() < 0.9 else ["--skip-bad"])


def recipe(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A picture with a recipe that is none."""
    from masactrl.pictures.images import save_png

    values = chance.choice(ground.recipes)
    for _ in range(chance.choice((1, 1, 2, 3))):
        values = twisted(values, chance)
    path = out.with_suffix(".png")
    try:
        from PIL import Image

        save_png(path, Image.new("RGB", (16, 16)), values)
    except (ValueError, TypeError):
        path.write_bytes(ground.pictures["png"])
    if chance.random() < 0.2:
        path.write_bytes(bent(path.read_bytes(), chance))
    match chance.randrange(5):
        case 0:
            return ["info", str(path)]
        case 1:
            return ["info", str(path), "--json"]
        case 2:
            return ["info", str(path), "--cli"]
        case _:
            made = ["--input", ground.good] if chance.random() < 0.5 else []
            return ["rerun", str(path), "-o", str(out.with_suffix(".again.png")), *made]


def setting(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """Options with values that nobody means."""
    names = ("steps", "cfg", "seed", "start-step", "start-layer", "strength", "form", "method",
             "method-option", "size", "negative", "layout-scale", "seeds", "inversion", "fit",
             "source-cfg", "iterations", "fresh-steps", "mask-threshold", "mask-word", "keep",
             "device", "dtype", "offload", "model", "revision", "pixel-limit")  # fmt: skip
    edit = chance.random() < 0.5
    words = ["edit", ground.good, "--to", "a dog"] if edit else ["generate", "a cat", "--to", "dog"]
    values = [nasty(chance) for _ in range(chance.randint(1, 4))]
    pairs = [(chance.choice(names), value) for value in values]
    if chance.random() < 0.3:
        path = ground.folder / "job.toml"
        lines = [f"{name} = {json.dumps(value)}" for name, value in pairs]
        content = "\n".join(lines).encode("utf-8", errors="surrogatepass")
        path.write_bytes(bent(content, chance) if chance.random() < 0.5 else content)
        words += ["--config", str(path)]
    else:
        words += [word for name, value in pairs for word in (f"--{name}", str(value))]
    return [*words, "--plan", "-o", str(out)]


def prompt(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """Words that are none."""
    del ground
    source, target, negative = (str(nasty(chance)) for _ in range(3))
    if chance.random() < 0.5:
        parts = ["a cat", "(", ")", ":", "1.3", "[", "]", "\\", "(dog:1.2)", ",", " AND ", "\n"]
        target = "".join(chance.choice(parts) for _ in range(chance.randint(1, 20)))
    return ["generate", source, "--to", target, "--negative", negative, *SMALL, "-o", str(out)]


def file_of(
    ground: Ground, chance: random.Random, words: list[str], option: str, out: Path
) -> list[str]:
    """A command with a bent picture."""
    ending = chance.choice([*ground.pictures])
    path = ground.folder / f"bent.{ending}"
    path.write_bytes(bent(ground.pictures[ending], chance))
    return [*words, *([f"{option}{path}"] if option else [str(path)]), "-o", str(out)]


def picture(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A picture that is damaged."""
    words = file_of(ground, chance, ["edit", "--to", "a dog"], "", out)
    return [*words, "--plan"]


def mask(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A mask that is damaged."""
    words = ["edit", ground.good, "--to", "a dog", "--fit", "keep"]
    return [*file_of(ground, chance, words, "--mask-file=", out), "--plan"]


def layout(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A layout that is damaged."""
    words = ["generate", "a cat", "--to", "a dog", *SMALL[:-4], "24x16", *SMALL[-3:]]
    kind = chance.choice(("pose", "pose", "edges", "", "a b"))
    return file_of(ground, chance, words, f"--layout={kind}=", out)


def session(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A session that is damaged."""
    path = ground.folder / "bent.safetensors"
    path.write_bytes(bent(ground.session.read_bytes(), chance))
    words = ["edit", ground.good, "--to", "a dog", "--fit", "keep", "--steps", "2"]
    words += ["--start-step", "1", "--device", "cpu", "--overwrite"]
    return [*words, "--session", str(path), "-o", str(out)]


def lora(ground: Ground, chance: random.Random, out: Path) -> list[str]:
    """A LoRA that is damaged."""
    path = ground.folder / "bent_lora.safetensors"
    path.write_bytes(bent(ground.lora().read_bytes(), chance))
    scale = chance.choice(("", ":0.5", ":nan", ":", ":1e9", ":x"))
    return [
        "generate",
        "a cat",
        "--to",
        "a dog",
        *SMALL,
        "--lora",
        f"{path}{scale}",
        "-o",
        str(out),
    ]


KINDS = {name: globals()[name] for name in SHARES}


@contextlib.contextmanager
def model_kept() -> Iterator[None]:
    """Load the embedded model once, small pictures its own; with a LoRA, a copy."""
    import copy

    from masactrl import models
    from masactrl.batch import plan

    load, kept = models.load_pipeline, {}

    def remembered(model: Any = "puppets", **options: Any) -> Any:
        if str(model) != "puppets" or options.get("offload", "none") != "none":
            return load(model, **options)
        loras = options.pop("loras", ())
        name = repr(sorted(options.items()))
        if name not in kept:
            made = load(model, **options)
            own = replace(made.preset, height=64, width=64, steps=2, start_step=1)
            kept[name] = replace(made, preset=own)
        if not loras:
            return kept[name]
        return models.loading.with_loras(copy.deepcopy(kept[name]), loras)

    models.load_pipeline = remembered
    plan._measured = lambda _: (1e-6, 1.5)
    yield


class TooLong(BaseException):
    """More than two minutes."""


def child(kind: str, numbers: list[int], seed: int, folder: Path) -> None:
    """Run the inputs of a kind; print a line of JSON for each."""

    def late(*_: object) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, late)
    with model_kept():
        ground = Ground(folder / kind)
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        for number in numbers:
            chance = random.Random(f"{seed} {kind} {number}")
            wrong, code, said = "", None, ""
            try:
                words = KINDS[kind](ground, chance, folder / kind / f"out{number}")
            except Exception:  # noqa: BLE001
                wrong, words = "the generator: " + traceback.format_exc(), []
            started = time.process_time()  # of a machine that may be busy with other things
            signal.alarm(120)
            try:
                if words:
                    code, said = run(ground.main, [w.replace("\0", "") for w in words])
            except (Exception, SystemExit, TooLong):  # noqa: BLE001
                wrong = traceback.format_exc()
            signal.alarm(0)
            seconds = time.process_time() - started
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - base
            if code is not None and code not in EXITS:
                wrong = f"exit {code}"
            elif "Traceback" in said or "Unforeseen" in said:
                wrong = said
            elif code not in (0, None) and not said.strip():
                wrong = "no sentence"
            elif seconds > SECONDS:
                wrong = f"{seconds:.1f} s"
            elif grown > BYTES:
                wrong, base = f"{grown / 1e9:.2f} GB", base + grown
            told = {"number": number, "code": code, "wrong": wrong, "seconds": round(seconds, 2)}
            sys.stdout.write(json.dumps(told | {"grown": grown, "words": words[:12]}) + "\n")
            sys.stdout.flush()


def found_of(kind: str, numbers: list[int], seed: int) -> list[dict[str, Any]]:
    """Run inputs of a kind; who dies over one is replaced, and goes on behind it."""
    found, todo = [], numbers
    with tempfile.TemporaryDirectory() as folder:
        while todo:
            words = [sys.executable, __file__, "--child", kind, "--seed", str(seed)]
            words += ["--numbers", ",".join(map(str, todo)), "--folder", folder]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
            new = [json.loads(line) for line in done.stdout.splitlines() if line[:1] == "{"]
            found += new
            todo = todo[len(new) :]
            if todo:  # the process died over the next one
                died = {"number": todo[0], "code": None, "wrong": f"died: {done.returncode}"}
                found.append(died | {"seconds": 0, "grown": 0, "words": []})
                todo = todo[1:]
    for one in found:
        if one["wrong"]:
            print(f"{kind}:{one['number']} {one['words']}\n{one['wrong']}", file=sys.stderr)
    return found


def campaign(
    count: int, seed: int, kinds: list[str], only: list[int] | None, workers: int
) -> tuple[str, int]:
    """These kinds as a table, and how many inputs went wrong."""
    rows = ["| input | how many | right result | sentence | wrong | slowest s | most MB |"]
    rows.append("|---|---|---|---|---|---|---|")
    total = [0, 0, 0, 0]
    shares = {kind: share for kind, share in SHARES.items() if kind in kinds}
    numbers = {
        kind: only or [*range(max(1, round(share * count / sum(SHARES.values()))))]
        for kind, share in shares.items()
    }
    with ThreadPoolExecutor(workers) as pool:
        runs = {kind: pool.submit(found_of, kind, own, seed) for kind, own in numbers.items()}
    for kind, run in runs.items():
        found = run.result()
        wrong = sum(bool(one["wrong"]) for one in found)
        right = sum(one["code"] == 0 and not one["wrong"] for one in found)
        counts = [len(found), right, len(found) - right - wrong, wrong]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        slowest = max(one["seconds"] for one in found)
        most = max(one["grown"] for one in found) / 1e6
        rows.append(f"| {kind} | {' | '.join(map(str, counts))} | {slowest:.1f} | {most:.0f} |")
    rows.append(f"| all | {' | '.join(map(str, total))} | | |")
    return "\n".join(rows), total[3]


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=sum(SHARES.values()))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="KIND:NUMBER, or KIND,KIND for these alone")
    parser.add_argument("--workers", type=int, default=2, help="kinds at once")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--numbers", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("-o", "--out", type=Path, help="page to write the table into")
    options = parser.parse_args()
    if options.child:
        numbers = [int(one) for one in options.numbers.split(",")]
        child(options.child, numbers, options.seed, options.folder)
        return
    kinds, _, number = (options.only or ",".join(SHARES)).partition(":")
    numbers = [int(number)] if number else None
    text, wrong = campaign(options.count, options.seed, kinds.split(","), numbers, options.workers)
    print(text)
    if options.out is not None:
        write_into(options.out, "batch-malformed", text)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
