"""Seconds per step and peak memory of the control, beside plain generation and the literal form.

    python benchmarks/attention_cost.py [--size 512] [--steps 3] [--device cpu] [--dtype float32]

Prints a Markdown table. The aims: source and target together at most 2.05 times one plain picture,
peak memory at most 1.6 times, at least twice as fast as the explicit softmax.
"""

from __future__ import annotations

import argparse

import torch

from masactrl.attention.cost import CostSettings, attention_cost, cost_table


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
    print(f"{settings}, torch {torch.__version__}\n")
    print(cost_table(attention_cost(settings)))


if __name__ == "__main__":
    main()
