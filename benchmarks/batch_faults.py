"""What a batch loses when it is killed, filled up, locked out, changed under its hands: nothing.

    python benchmarks/batch_faults.py kills [--rows 200] [--seed 0] [-o docs/guides/many_edits.md]
    python benchmarks/batch_faults.py faults [-o docs/guides/many_edits.md]

`kills`: rows on the embedded model at few steps. The process, a worker, a Ray actor and the driver
are killed with SIGKILL at 40 random points in all, while one folder goes on under three engines.
`faults`: a full disk and a folder made read-only (both need root, for a small file system of their
own), inputs deleted and changed, a clock that runs backwards, rows that raise, kill their process
or hang. Every picture is compared to that of an undisturbed run. Needs psutil, and ray.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import psutil
from page import write_into
from PIL import Image

COMMAND = (sys.executable, "-m", "masactrl", "batch", "--json", "--device", "cpu")
ENGINES = {
    "one process": (),
    "two workers": ("--workers", "2"),
    "Ray, two actors": ("--engine", "ray", "--workers", "2"),
}
KILLS = 40
# Rounds of an engine: how often workers are killed before the driver is.
ROUNDS = {"one process": (0,) * 8, "two workers": (2,) * 4, "Ray, two actors": (3,) * 5}


@dataclass(frozen=True, slots=True)
class Harm:
    """What an interrupted run did, beside an undisturbed one."""

    lost: int = 0
    doubled: int = 0
    half_written: int = 0
    unequal: int = 0

    def __add__(self, other: Harm) -> Harm:
        return Harm(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


def sources(folder: Path, count: int, side: int) -> list[str]:
    """Draw animals of the embedded world; return their files' names."""
    from masactrl.bench.puppet_tasks import halves_of
    from masactrl.pictures.images import tensor_to_image
    from masactrl.puppets.renderer import render

    names = []
    for number, task in enumerate(halves_of("tuning", "rendered", limit=count)):
        drawn = render([task.source], (side, side)).image[0]
        tensor_to_image(drawn, signed=False).save(folder / f"animal{number}.png")
        names.append(f"animal{number}.png")
    return names


def manifest(folder: Path, count: int, seed: int = 0, *, side: int = 64, steps: int = 3) -> Path:
    """Write so many rows: edits of shared sources, and pictures from prompts."""
    actions = ("running", "lying", "jumping", "sitting", "standing", "grazing")
    places = ("meadow", "beach", "snow", "desert")
    files, rows = sources(folder, 16, side), []
    for number in range(count):
        action, place = actions[number % 6], places[number % 4]
        target = f"a cat {action} in the {place}"
        row: dict[str, Any] = {"target_prompt": target, "steps": steps, "tag": number}
        if number % 5 < 3:
            row |= {"file_name": files[number % len(files)], "fit": "keep", "compare": False}
            row["start_layer"] = 6 + number // 48
        else:
            row |= {"source_prompt": f"a cat standing in the {place}", "seed": number}
            row["size"] = f"{side}x{side}"
        rows.append(row)
    random.Random(seed).shuffle(rows)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Batch:
    """A command that runs, its events read one by one."""

    def __init__(
        self, rows: Path, out: Path, *words: str, more: Mapping[str, str] | None = None
    ) -> None:
        # One thread everywhere: sums in another order would be other pictures.
        own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
        own["RAY_worker_niceness"] = "0"  # Ray's own 15 starves on a busy machine
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115 - `end` and `kill` close it
        self.process = subprocess.Popen(
            [*COMMAND, str(rows), "-o", str(out), *words],
            stdout=subprocess.PIPE,
            stderr=self.said,
            text=True,
            env={**os.environ, **own, **(more or {})},
        )

    def rows(self) -> Iterator[Mapping[str, Any]]:
        """Yield every event of a row."""
        for line in self.process.stdout or ():
            event = json.loads(line)
            if event["event"] == "row":
                yield event

    def workers(self) -> list[psutil.Process]:
        """Its worker processes or actors that are there."""
        found = []
        for one in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = " ".join(one.cmdline())
                if "spawn_main" in words or words.startswith("ray::_Actor"):
                    found.append(one)
        return found

    def end(self) -> tuple[int, str]:
        """Wait for its end; return exit code and what it said."""
        for _ in self.rows():
            pass
        code = self.process.wait()
        self.said.seek(0)
        words = self.said.read()
        self.said.close()
        return code, words

    def kill(self) -> None:
        """Kill it, and wait until what it started is gone, too."""
        with contextlib.suppress(psutil.Error):
            below = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
            _, left = psutil.wait_procs(below, timeout=30)
            for one in left:
                print(f"still there: {one}", file=sys.stderr)
                one.kill()
        self.said.close()


def harm(calm: Path, wild: Path) -> Harm:
    """Compare a disturbed run that came to its end with an undisturbed one."""
    rows = [json.loads(line) for line in (wild / "results.jsonl").read_text().splitlines()]
    right = [json.loads(line) for line in (calm / "results.jsonl").read_text().splitlines()]
    ledger = [json.loads(line) for line in (wild / "ledger.jsonl").read_text().splitlines()]
    done = Counter(line["key"] for line in ledger if "error" not in line)
    half = unequal = 0
    for row, twin in zip(rows, right, strict=True):
        for path, other in zip(row["pictures"], twin["pictures"], strict=False):
            try:
                with Image.open(wild / path) as image:
                    image.load()
            except (OSError, SyntaxError):
                half += 1
                continue
            unequal += (wild / path).read_bytes() != (calm / other).read_bytes()
    half += len([*(wild / "pictures").glob(".part-*"), *wild.glob(".*.part*")])
    folders = len([*(wild / "pictures").iterdir()])
    return Harm(
        lost=len(right) - sum(row["status"] == "done" for row in rows),
        doubled=sum(count - 1 for count in done.values()) + max(0, folders - len(done)),
        half_written=half,
        unequal=unequal,
    )


def killed(batch: Batch, workers: int, chance: random.Random) -> tuple[int, int]:
    """Kill workers and then the driver at random points; return both counts."""
    events, hit = batch.rows(), 0
    for _ in range(workers):
        for _ in range(chance.randint(1, 4)):
            next(events, None)
        time.sleep(chance.random() * 2)
        found = batch.workers()
        if found:
            with contextlib.suppress(psutil.Error):
                chance.choice(found).kill()
                hit += 1
    if chance.random() < 0.2 and not workers:
        time.sleep(chance.random() * 15)  # while it starts
    else:
        for _ in range(chance.randint(0, 6)):
            next(events, None)
        time.sleep(chance.random() * 2)
    alive = batch.process.poll() is None
    batch.kill()
    return hit, int(alive)


def kills(folder: Path, count: int, seed: int) -> str:
    """The campaign of kills as a table."""
    chance = random.Random(seed)
    rows, calm, wild = manifest(folder, count), folder / "calm", folder / "wild"
    print("undisturbed ...", file=sys.stderr)
    code, words = Batch(rows, calm).end()
    if code:
        raise SystemExit(words)
    plan = [(name, times) for name, rounds in ROUNDS.items() for times in rounds]
    chance.shuffle(plan)
    hits: Counter[str] = Counter()
    while plan and sum(hits.values()) < KILLS:
        name, times = plan.pop(0)
        plan.append((name, times))  # some rounds find nobody to kill
        workers, drivers = killed(Batch(rows, wild, *ENGINES[name]), times, chance)
        hits[f"{name}: {'an actor' if 'Ray' in name else 'a worker'}"] += workers
        hits[f"{name}: the driver" if times else name] += drivers
        lines = (wild / "ledger.jsonl").read_bytes().count(b"\n") if wild.exists() else 0
        print(f"{name}: {sum(hits.values())} kills, {lines} rows", file=sys.stderr)
    code, words = Batch(rows, wild, "--rerun", "failed").end()
    if code:
        raise SystemExit(words)
    found = harm(calm, wild)
    told = [f"| {name} | {times} |" for name, times in hits.items() if times]
    return "\n".join(
        [
            "| killed | times |",
            "|---|---|",
            *told,
            f"| in all, over {count} rows | {sum(hits.values())} |",
            "",
            *table([("the kills, then one run to the end", code, found)]),
        ]
    )


def table(found: Sequence[tuple[str, int, Harm]]) -> list[str]:
    """Lines of a table."""
    lines = ["| what happened | last exit | lost | doubled | half written | pictures not equal |"]
    lines.append("|---|---|---|---|---|---|")
    for name, code, one in found:
        lines.append(f"| {name} | {code} | " + " | ".join(map(str, astuple(one))) + " |")
    return lines


FAULT = """
import importlib.abc, importlib.machinery, os, sys, time
if os.environ.get("CLOCK"):
    _now = time.time
    _start = _now()
    time.time = lambda: 1.0e9 - 3 * (_now() - _start)  # 2001, and running backwards
class _Patch(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "masactrl.batch.work":
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        run = spec.loader.exec_module
        def exec_module(module):
            run(module)
            real = module.Maker._tried
            def tried(self, items):
                number, what = items[0].row.number, os.environ["FAULT"]
                if number == 3 and what == "raises":
                    raise RuntimeError("a row that raises")
                if number == 3 and what == "kills":
                    os.kill(os.getpid(), 9)
                if number == 3 and what == "hangs":
                    time.sleep(3600)
                if number == 3 and what == "changes":
                    for path in items[0].row.files:
                        path.write_bytes(path.read_bytes() + b"changed")
                return real(self, items)
            module.Maker._tried = tried
        spec.loader.exec_module = exec_module
        return spec
if os.environ.get("FAULT"):
    sys.meta_path.insert(0, _Patch())
"""


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    """A file system of its own."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder: Path, how: str) -> None:
    """Change it."""
    subprocess.run(["mount", "-o", f"remount,{how}", folder], check=True)


def faults(folder: Path, count: int) -> str:
    """The other faults as a table."""
    rows, calm = manifest(folder, count), folder / "calm"
    code, words = Batch(rows, calm).end()
    if code:
        raise SystemExit(words)
    (folder / "patch").mkdir()
    (folder / "patch" / "sitecustomize.py").write_text(FAULT)
    path = os.pathsep.join([str(folder / "patch"), os.environ.get("PYTHONPATH", "")])
    found: list[tuple[str, int, Harm]] = []

    def once(name: str, *words: str, out: str = "", **more: str) -> str:
        place = folder / (out or name.replace(" ", "_"))
        code, told = Batch(rows, place, *words, more={"PYTHONPATH": path, **more}).end()
        print(f"{name}: exit {code}; {told.strip().splitlines()[:2]}", file=sys.stderr)
        if "Traceback" in told or "Unforeseen" in told.replace(
            "Unforeseen RuntimeError: a row", ""
        ):
            raise SystemExit(told)
        return str(code)

    def judged(name: str, *words: str, out: str, exits: str) -> None:
        last = once(name, *words, out=out)
        found.append((f"{name} (exit {exits}), then again", int(last), harm(calm, folder / out)))
        print(found[-1], file=sys.stderr)

    if os.geteuid() == 0:
        disk = folder / "disk"
        with small_disk(disk, "160k"):
            first = once("disk full", out="disk/run")
            remount(disk, "size=64m")
            judged("disk full", out="disk/run", exits=first)
        with small_disk(folder / "locked", "64m"):
            once("first rows", "--limit", str(count // 2), out="locked/run")
            remount(folder / "locked", "ro")
            first = once("folder made read-only", out="locked/run")
            remount(folder / "locked", "rw")
            judged("folder made read-only", out="locked/run", exits=first)
    victim = folder / "animal1.png"
    content = victim.read_bytes()
    once("first rows", "--limit", str(count // 2), out="gone")
    victim.unlink()
    first = once("input deleted between runs", "--skip-bad", out="gone")
    victim.write_bytes(content)
    judged("input deleted between runs", out="gone", exits=first)
    once("first rows", "--limit", str(count // 2), out="changed")
    Image.new("RGB", (64, 64), "red").save(victim)
    first = once("input changed between runs", out="changed")
    victim.write_bytes(content)
    for line in (folder / "changed" / "results.jsonl").read_text().splitlines():
        row = json.loads(line)
        if row["source"] == victim.name:  # made from the other picture: those are other rows
            for one in {Path(each).parent for each in row["pictures"]}:
                shutil.rmtree(folder / "changed" / one)
    judged("input changed between runs", out="changed", exits=first)
    first = once("clock set back, running backwards", out="clock", CLOCK="1")
    judged("clock set back, running backwards", out="clock", exits=first)
    first = once("row that raises", out="raises", FAULT="raises")
    judged("row that raises", "--rerun", "failed", out="raises", exits=first)
    for engine in ("two workers", "Ray, two actors"):
        own = ENGINES[engine]
        for what in ("kills", "hangs"):
            name = "row that kills its process" if what == "kills" else "row that hangs"
            limit = ("--time-limit", "30") if what == "hangs" else ()
            out = f"{what}-{own[-2].strip('-')}-{len(own)}"
            first = once(f"{name}, {engine}", *own, *limit, out=out, FAULT=what)
            judged(f"{name}, {engine}", "--rerun", "failed", out=out, exits=first)
    return "\n".join(table(found))


def main() -> None:
    """Run a campaign and print its table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("campaign", choices=["kills", "faults"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for all runs, which stay")
    parser.add_argument("-o", "--out", type=Path, help="page to write the table into")
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as made:
        folder = options.keep or Path(made)
        folder.mkdir(exist_ok=True)
        if options.campaign == "kills":
            text = kills(folder, options.rows or 200, options.seed)
        else:
            text = faults(folder, options.rows or 12)
    print(text)
    if options.out is not None:
        write_into(options.out, f"batch-{options.campaign}", text)


if __name__ == "__main__":
    main()
