"""Work on several processes: the same rows as in one, errors and refusals that arrive."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from functools import partial
from operator import truediv
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from masactrl.batch.processes import in_parallel
from masactrl.bench.real import RealSettings, measure_real
from masactrl.errors import ConfigError
from masactrl.puppets.inspector import Inspector

if TYPE_CHECKING:
    from masactrl.models import LoadedModel

FEW = RealSettings(
    count=2, steps=2, start_step=1, start_layer=9, inversions=("direct",), pictures=1
)


def test_one_worker_is_the_caller_in_order() -> None:
    seen: list[int] = []
    found = in_parallel(lambda job: seen.append(job) or -job, [3, 1, 2], 1)
    assert next(found) == (3, -3)
    assert seen == [3]  # the next is begun when it is asked for
    assert list(found) == [(1, -1), (2, -2)]


def test_what_several_workers_find_is_what_one_finds(model: LoadedModel, tmp_path: Path) -> None:
    torch.manual_seed(0)
    inspector = Inspector().requires_grad_(False).eval()
    alone = {
        (row["task"], row["row"]): row["figures"]
        for row in measure_real(model, inspector, FEW, tmp_path / "one")
    }
    ticks: list[tuple[int, int]] = []
    together = measure_real(
        model,
        inspector,
        FEW,
        tmp_path / "two",
        workers=2,
        on_progress=lambda *tick: ticks.append(tick),
    )
    assert ticks == [(1, 2), (2, 2)]
    found = {(row["task"], row["row"]): row["figures"] for row in together}
    assert found.keys() == alone.keys()
    for key, figures in alone.items():
        for name, value in figures.items():
            if value is None or name == "seconds":
                assert (found[key][name] is None) == (value is None)
            else:
                assert found[key][name] == pytest.approx(value, rel=1e-3, abs=1e-3)
    kept = {path.name for path in (tmp_path / "one").rglob("*.png")}
    assert {path.name for path in (tmp_path / "two").rglob("*.png")} == kept
    assert kept


def test_an_error_in_a_worker_arrives() -> None:
    with pytest.raises(ZeroDivisionError):
        list(in_parallel(partial(truediv, 1), [1, 0], 2))


def test_workers_leave_with_a_caller_that_was_killed(tmp_path: Path) -> None:
    program = tmp_path / "caller.py"
    program.write_text(CALLER)
    with subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as one:
        assert one.stdout is not None
        worker = int(one.stdout.readline())
        os.kill(worker, 0)  # is there
        one.kill()
    for _ in range(200):
        if _gone(worker):
            return
        time.sleep(0.05)
    pytest.fail("the worker is still there")


CALLER = """
import os
from masactrl.batch.processes import in_parallel

def work(job):
    return os.getpid()

if __name__ == "__main__":
    for _, worker in in_parallel(work, [1, 2], 2):
        print(worker, flush=True)
        import time
        time.sleep(600)
"""


def _gone(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    # One that nobody has waited for is listed until somebody does.
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="workers=0"):
        list(in_parallel(str, [1], 0))
    with pytest.raises(ConfigError, match="use one worker"):
        list(in_parallel(lambda job: job, [1], 2))
