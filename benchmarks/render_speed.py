"""Pictures per second of the puppet world's renderer.

    python benchmarks/render_speed.py [--size 256] [--pictures 128] [--device cpu]

Prints a Markdown table; the aim is 60 pictures a second at 256 pixels on two CPU cores.
"""

from __future__ import annotations

import argparse
import time

import torch

from masactrl.puppets.renderer import render
from masactrl.puppets.scene import sample_scenes


def main() -> None:
    """Time the renderer at each size, best of three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    scenes = sample_scenes(options.pictures, seed=0)
    print(f"{options.device}, {torch.get_num_threads()} threads, {options.pictures} pictures\n")
    print("| size | pictures/s |\n|---|---|")
    for size in options.size:
        render(scenes[:8], size, device=options.device)
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            render(scenes, size, device=options.device).image.sum().item()
            seconds.append(time.perf_counter() - started)
        print(f"| {size} | {options.pictures / min(seconds):.0f} |")


if __name__ == "__main__":
    main()
