"""What every training run shares: a directory, a time budget, checkpoints, EMA, a log."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from masactrl.puppets.training.optimizer import MuonAdamW

Module = TypeVar("Module", bound=nn.Module)
#: Called with a record of named values: step, seconds, loss, ...
OnRecord = Callable[[Mapping[str, float]], None]


class Ema:
    """Exponential moving average of a module's parameters.

    The decay warms up, ``min(decay, (1 + n) / (10 + n))``, so that short runs forget the start.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module = copy.deepcopy(module).requires_grad_(False).eval()
        self._decay, self._updates = decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the average towards ``module``."""
        self._updates += 1
        weight = 1 - min(self._decay, (1 + self._updates) / (10 + self._updates))
        pairs = zip(self.module.parameters(), module.parameters(), strict=True)
        averages, currents = (list(column) for column in zip(*pairs, strict=True))
        torch._foreach_lerp_(
            averages, [c.to(a.dtype) for a, c in zip(averages, currents, strict=True)], weight
        )

    def state_dict(self) -> dict[str, object]:
        """Averages and the number of updates."""
        return {"module": self.module.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue from what `state_dict` returned."""
        self.module.load_state_dict(state["module"])  # type: ignore[arg-type]
        self._updates = int(state["updates"])  # type: ignore[call-overload]


@dataclass(kw_only=True)
class Run:
    """A resumable run with a time budget.

    ``seconds`` counts training over all sessions. ``budget`` is the whole run's length in seconds:
    the learning rate is a function of ``seconds / budget`` (warm-up, constant, then a cosine to
    zero over the last ``decay`` share), so a run given more budget continues with a raised rate.
    """

    directory: Path
    budget: float
    learning_rate: float
    decay: float = 0.35
    warmup_steps: int = 200
    checkpoint_every: float = 300.0
    step: int = 0
    seconds: float = 0.0
    on_record: OnRecord | None = None
    stop_after: float | None = None  # seconds of this session, for machines lent by the minute
    _started: float = field(default=0.0, repr=False)

    @property
    def progress(self) -> float:
        """Share of the budget spent, in [0, 1]."""
        return min(1.0, self.seconds / self.budget)

    def rate(self) -> float:
        """The learning rate now."""
        warm = min(1.0, (self.step + 1) / self.warmup_steps)
        left = (1 - self.progress) / self.decay
        fall = 1.0 if left >= 1 else 0.5 * (1 - math.cos(math.pi * left))
        return self.learning_rate * warm * max(fall, 1e-3)

    def steps(self, parts: Mapping[str, object], optimizer: MuonAdamW) -> Iterator[int]:
        """Yield step numbers until the budget is spent, setting rates and writing checkpoints.

        Args:
            parts: name -> object with ``state_dict`` and ``load_state_dict``; restored at the start
                when the directory holds a checkpoint.
        """
        everything = {**parts, "optimizer": optimizer}
        self._restore(everything)
        session = time.monotonic()
        last_save = session
        while self.seconds < self.budget:
            if self.stop_after is not None and time.monotonic() - session > self.stop_after:
                break
            for group in optimizer.param_groups:
                group["lr"] = self.rate() * group.get("scale", 1.0)
            begin = time.monotonic()
            yield self.step
            self.step += 1
            now = time.monotonic()
            self.seconds += now - begin
            if now - last_save > self.checkpoint_every:
                self._save(everything)
                last_save = now
        self._save(everything)

    def record(self, **values: float) -> None:
        """Append to ``log.jsonl`` and tell the caller."""
        row = {"step": self.step, "seconds": round(self.seconds, 1), **values}
        with (self.directory / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        if self.on_record is not None:
            self.on_record(row)

    def _save(self, parts: Mapping[str, object]) -> None:
        state: dict[str, object] = {n: p.state_dict() for n, p in parts.items()}  # type: ignore[attr-defined]
        state["run"] = {"step": self.step, "seconds": self.seconds}
        beside = self.directory / "checkpoint.pt.part"
        torch.save(state, beside)
        beside.replace(self.directory / "checkpoint.pt")

    def _restore(self, parts: Mapping[str, object]) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        path = self.directory / "checkpoint.pt"
        if not path.exists():
            return
        state = torch.load(path, map_location="cpu", weights_only=True)
        for name, part in parts.items():
            if name in state:  # a part that has joined the recipe since begins anew
                part.load_state_dict(state[name])  # type: ignore[attr-defined]
        self.step, self.seconds = state["run"]["step"], state["run"]["seconds"]


def placed(module: Module, device: str) -> Module:
    """The module on a device; on a GPU with channels last, which its convolutions are quickest at.

    On a CPU the same makes a bfloat16 step ten times slower.
    """
    module.to(device)
    if torch.device(device).type == "cuda":
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return module


def animal_weight(mask: Tensor) -> Tensor:
    """(n, 1, h, w) foreground in [0, 1] -> loss weights: three on the animal, mean 1 per picture.

    The animal is a fifth of the picture, and what it is about.
    """
    weight = 1 + 2 * mask
    return weight / weight.mean((2, 3), keepdim=True)


def psnr(a: Tensor, b: Tensor, *, span: float) -> Tensor:
    """(n, ...) x 2 -> (n,) peak signal-to-noise ratio in dB for values that span ``span``."""
    error = (a - b).float().square().flatten(1).mean(1)
    return 10 * torch.log10(span**2 / error)
