"""Workers that die, hang or raise: who dies is replaced, a row is tried twice, then has failed."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

import pytest

from masactrl.batch.engines import Led
from masactrl.batch.processes import Processes
from masactrl.errors import ConfigError


@dataclass(frozen=True)
class Job:
    name: str
    several: tuple[str, ...] = ()

    def parts(self) -> list[Job]:
        return [Job(one) for one in self.several] or [self]


def work(job: Job) -> str:
    if "kills" in (job.name, *job.several):
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "hangs":
        time.sleep(600)
    if job.name == "raises":
        raise ConfigError("no")
    return job.name.upper()


@pytest.fixture(params=["processes", "ray"])
def crew(request: pytest.FixtureRequest) -> Processes:
    if request.param == "processes":
        return Processes(work, 2)
    pytest.importorskip("ray", reason="the extra ray")
    from masactrl.batch.ray_actors import RayActors

    return RayActors(work, 2, None)  # type: ignore[return-value]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::DeprecationWarning")
def test_poisoned_rows_take_nobody_with_them(crew: Processes) -> None:
    jobs = [Job("a"), Job("kills"), Job("hangs"), Job("b"), Job("both", ("kills", "d")), Job("c")]
    with Led(crew, time_limit=4) as engine:
        found = {one.job.name: one for one in engine.run(jobs)}
        assert sorted(found) == ["a", "b", "c", "d", "hangs", "kills"]
        assert {name: one.answer for name, one in found.items() if not one.lost} == {
            "a": "A",
            "b": "B",
            "c": "C",
            "d": "D",
        }
        assert "died twice" in found["kills"].lost
        assert "limit of 4 seconds" in found["hangs"].lost
        with pytest.raises(ConfigError, match="no"):
            [*engine.run([Job("raises")])]
