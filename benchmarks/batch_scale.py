"""What the batch itself costs, how much two workers are, and what a lost machine takes with it.

    python benchmarks/batch_scale.py rows [--rows 10000] [-o docs/guides/many_edits.md]
    python benchmarks/batch_scale.py workers [--rows 20] [-o docs/guides/many_edits.md]
    python benchmarks/batch_scale.py nodes [--rows 40] [-o docs/guides/many_edits.md]

`rows`: rows through manifest, ledger, folder and report with a stub that draws nothing: seconds a
row, seconds to go on, memory, of a tenth of the rows and of all. `workers`: rows on the embedded
model at its size by one process, by one worker and by two, in turn. `nodes`: two Ray nodes
simulated on this machine, one of them killed halfway. Needs psutil, and ray for the last.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from page import write_into

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de"
    "0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)


def stub(rows: Path, out: Path) -> None:
    """Run a batch whose work draws nothing; print seconds and memory."""
    from masactrl.batch import run
    from masactrl.batch.work import Entry, Made, Survey, Surveyed, digest

    class Stub:
        """Says that it did."""

        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        def __call__(self, job: Any) -> Any:
            if isinstance(job, Survey):
                entries = tuple(Entry(settings=digest(dict(row.settings))) for row in job.rows)
                return Surveyed(
                    model="stub", weights="", device="cpu", dtype="float32", entries=entries
                )
            names = {"target1-controlled": PNG}
            return tuple(Made(key=one.key, pictures=names) for one in job.items)

    run.Maker = Stub  # type: ignore[assignment, misc]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []
    started = time.perf_counter()
    outcome = run.run_batch(rows, out, on_event=lambda _: times.append(time.perf_counter()))
    spent = time.perf_counter() - started
    print(
        json.dumps(
            {
                "made": outcome.made,
                "done": outcome.done,
                "seconds": spent,
                "loop": times[-2] - times[0] if len(times) > 2 else 0.0,
                "before": before / 1024,
                "after": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            }
        )
    )


def rows_table(folder: Path, count: int) -> str:
    """Rows with a stub as a table."""
    lines = ["| rows | ms a row | of it ledger and folder | going on with all done | memory |"]
    lines.append("|---|---|---|---|---|")
    for part in (count // 10, count):
        rows, out = folder / f"{part}.jsonl", folder / f"run{part}"
        rows.write_text(
            "".join(
                json.dumps({"source_prompt": f"a cat {n}", "target_prompt": "a dog"}) + "\n"
                for n in range(part)
            )
        )
        words = [sys.executable, __file__, "--stub", str(rows), str(out)]
        first, again = (
            json.loads(subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True).stdout)
            for _ in range(2)
        )
        if (first["made"], first["done"], again["made"], again["done"]) != (part, part, 0, part):
            raise SystemExit(f"{first} {again}")
        lines.append(
            f"| {part} | {1000 * first['seconds'] / part:.1f} | {1000 * first['loop'] / part:.1f} "
            f"| {again['seconds']:.1f} s | {first['after'] - first['before']:.0f} MiB more |"
        )
    return "\n".join(lines)


WORKERS = {
    "one process": (),
    "one worker": ("--workers", "1"),
    "two workers": ("--workers", "2"),
}
UNCOUNTED = 4  # first rows, which warm up
REPEATS = 3


def workers_table(folder: Path, count: int) -> str:
    """Rows a minute of one process, one worker and two: medians of interleaved repeats."""
    from batch_faults import manifest

    rows = manifest(folder, count, side=256, steps=10)
    rates: dict[str, list[float]] = {name: [] for name in WORKERS}
    others = []
    for repeat in range(REPEATS):
        # In turn, each once first: what else the machine does changes slowly.
        order = [*WORKERS][repeat % 3 :] + [*WORKERS][: repeat % 3]
        for name in order:
            rate, other = rated(rows, folder / f"{name}-{repeat}", WORKERS[name])
            rates[name].append(rate)
            others.append(other)
            print(f"{name}: {rate:.1f} rows a minute, others {other:.2f} cores", file=sys.stderr)
    cores = os.cpu_count()
    lines = [f"| {cores} cores | rows a minute | times one process | of the repeats |"]
    lines.append("|---|---|---|---|")
    for name, own in rates.items():
        ratios = [rate / one for rate, one in zip(own, rates["one process"], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(f"| {name} | {median(own):.1f} | {median(ratios):.2f} | {spread} |")
    lines.append(f"\nOther programs used {min(others):.2f} to {max(others):.2f} cores meanwhile.")
    return "\n".join(lines)


def rated(rows: Path, out: Path, words: tuple[str, ...]) -> tuple[float, float]:
    """Run a batch; return its rows a minute, and the cores that other programs used meanwhile."""
    command = [sys.executable, "-m", "masactrl", "batch", str(rows), "--json", *words]
    busy, own, began = psutil.cpu_times(), os.times(), time.perf_counter()
    process = subprocess.Popen(
        [*command, "-o", str(out), "--device", "cpu"], stdout=subprocess.PIPE, text=True
    )
    seen = []
    for line in process.stdout or ():
        if json.loads(line)["event"] == "row":
            seen.append(time.perf_counter())
    if process.wait():
        raise SystemExit(f"{words} failed")
    spent, now, after = time.perf_counter() - began, psutil.cpu_times(), os.times()
    used = sum(getattr(now, one) - getattr(busy, one) for one in ("user", "nice", "system"))
    used -= sum(after[:4]) - sum(own[:4])  # of this process and of those that ended under it
    rate = 60 * (len(seen) - UNCOUNTED) / (seen[-1] - seen[UNCOUNTED - 1])
    return rate, max(0.0, used / spent)


def nodes_table(folder: Path, count: int) -> str:
    """Two nodes, one killed halfway, as a table."""
    from batch_faults import Batch, harm, manifest, table
    from ray.cluster_utils import Cluster

    from masactrl.batch.options import BatchOptions
    from masactrl.batch.run import run_batch

    rows = manifest(folder, count)
    code, words = Batch(rows, folder / "calm").end()
    if code:
        raise SystemExit(words)
    os.environ |= {"RAY_worker_niceness": "0"}  # Ray's own 15 starves on a busy machine
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    other = cluster.add_node(num_cpus=1)
    seen: Counter[str] = Counter()

    def watch(event: Any) -> None:
        seen[event["event"]] += 1
        if seen["row"] == count // 2 and not seen["killed"]:
            seen["killed"] += 1
            cluster.remove_node(other, allow_graceful=False)
            print("one node is gone", file=sys.stderr)

    options = BatchOptions(engine="ray", address=cluster.address)
    outcome = run_batch(rows, folder / "wild", options=options, on_event=watch)
    cluster.shutdown()
    name = f"one of two nodes killed after {count // 2} of {count} rows"
    return "\n".join(
        table([(name, int(bool(outcome.failed)), harm(folder / "calm", folder / "wild"))])
    )


def main() -> None:
    """Run one of them and print its table."""
    if sys.argv[1:2] == ["--stub"]:
        stub(*map(Path, sys.argv[2:4]))
        return
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["rows", "workers", "nodes"])
    parser.add_argument("--rows", type=int)
    parser.add_argument("-o", "--out", type=Path, help="page to write the table into")
    options = parser.parse_args()
    make, usual = {
        "rows": (rows_table, 10_000),
        "workers": (workers_table, 20),
        "nodes": (nodes_table, 40),
    }[options.what]
    with tempfile.TemporaryDirectory() as folder:
        text = make(Path(folder), options.rows or usual)
    print(text)
    if options.out is not None:
        write_into(options.out, f"batch-{options.what}", text)


if __name__ == "__main__":
    main()
