"""Seconds per step and peak memory of the control, beside plain generation and the literal form.

    python benchmarks/attention_cost.py [--size 512] [--steps 2] [--threads 2] [-o docs/cost.md]

Prints a Markdown table; -o writes it into the page, between the two marks of its section, and
leaves the rest of the page as it is. The aims: source and target together at most 2.05 times one
plain picture, peak memory at most 1.6 times, at least twice as fast as the explicit softmax. On two
CPU cores count about ten minutes and 12 GB of free memory at the full size (one 64x64 layer of the
paper's code holds three to four matrices of 1 to 2 GB each); --tiny tries the command out.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from page import write_into

from masactrl.bench.attention_cost import CostSettings, attention_cost, cost_page


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
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
        write_into(options.out, "attention", text)


if __name__ == "__main__":
    main()
