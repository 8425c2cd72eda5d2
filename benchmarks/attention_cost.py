"""Seconds per step and peak memory of the control, beside plain generation and the literal form.

    python benchmarks/attention_cost.py [--size 512] [--steps 3] [--threads 2] [-o docs/cost.md]

Prints a Markdown table; -o writes it into the page, between its two marks, and leaves the rest of
the page as it is. The aims: source and target together at most 2.05 times one plain picture, peak
memory at most 1.6 times, at least twice as fast as the explicit softmax. On two CPU cores count
about a quarter of an hour and 16 GB of memory at the full size; --tiny tries the command out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

from masactrl.attention.cost import CostSettings, attention_cost, cost_page

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_into(page: Path, text: str) -> None:
    """Replace what stands between the marks of a page, or make a page of the text alone."""
    old = page.read_text(encoding="utf-8") if page.exists() else f"{BEGIN}\n{END}\n"
    if BEGIN not in old or END not in old:
        raise SystemExit(f"{page} has no marks {BEGIN} and {END}; add them where the table goes.")
    before, rest = old.split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-guidance", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a U-Net of a few channels")
    parser.add_argument("-o", "--out", type=Path, help="page to write the table into")
    options = parser.parse_args()
    settings = CostSettings(
        size=options.size,
        steps=options.steps,
        device=options.device,
        dtype=getattr(torch, options.dtype),
        guidance=not options.no_guidance,
        threads=options.threads,
        tiny=options.tiny,
    )
    costs = attention_cost(settings, on_start=lambda form: print(f"{form} ...", file=sys.stderr))
    text = cost_page(settings, costs)
    print(text)
    if options.out is not None:
        write_into(options.out, text)


if __name__ == "__main__":
    main()
