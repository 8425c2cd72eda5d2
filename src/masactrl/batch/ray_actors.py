"""Workers on a cluster: Ray actors, one a GPU (or share of the cores), the model loaded once each.

The caller owns queue and ledger; one job is one call. Ray itself repeats nothing: who dies is
replaced by `masactrl.batch.engines.Led`, on whatever machine has room.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from masactrl.batch.engines import Event
from masactrl.batch.processes import copied, quiet_here, said_here
from masactrl.errors import ConfigError, MissingExtra

__all__ = ["RayActors"]


class RayActors:
    """See the head of this file.

    Args:
        work: what they do.
        size: how many; 0 is one a GPU, or a core where the cluster has none.
        address: of the cluster; None starts Ray on this machine, and ends it again.

    Raises:
        MissingExtra: ray is not installed.
        ConfigError: there is no such cluster, or the work cannot be copied.
    """

    def __init__(self, work: Callable[[Any], Any], size: int, address: str | None) -> None:
        try:
            import ray
        except ImportError as error:
            raise MissingExtra("the engine ray", "ray") from error
        self._ray = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            try:
                ray.init(
                    # None would be any cluster that somebody has on this machine.
                    address=address or "local",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    **({} if address else {"include_dashboard": False}),
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                reason = str(error).strip().partition("\n")[0]
                raise ConfigError(f"There is no Ray cluster at {address}: {reason}") from error
        there = ray.cluster_resources()
        gpus, cores = int(there.get("GPU", 0)), max(1, int(there.get("CPU", 1)))
        self.size = size or gpus or cores
        self._threads = 1 if gpus else max(1, cores // self.size)
        needs = {"num_gpus": 1} if gpus else {"num_cpus": min(self._threads, cores)}
        self._actor = ray.remote(max_restarts=0, max_task_retries=0, **needs)(_Actor)
        self._work = ray.put(copied(work))
        self._workers: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, bool]] = {}  # reference -> worker, whether it comes
        self._pulses: dict[Any, int] = {}  # reference -> worker

    def hire(self, worker: int) -> None:
        """Ask the cluster for an actor; it comes when there is room."""
        actor = self._actor.remote(self._work, self._threads, said_here())
        self._workers[worker] = actor
        self._calls[actor.begin.remote()] = worker, True

    def give(self, worker: int, job: Any) -> None:
        """Call it once."""
        self._calls[self._workers[worker].do.remote(job)] = worker, False

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what came in the meantime."""
        waited = [*self._calls, *self._pulses]
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=seconds)
        if not ready:
            self._feel()
        found = []
        for call in ready:
            if call in self._pulses:
                found += self._felt(call)
                continue
            worker, came = self._calls.pop(call)
            try:
                answer = self._ray.get(call)
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause if isinstance(error.cause, Exception) else error
                found.append(Event(worker=worker, raised=cause))
            except self._ray.exceptions.RayError as error:
                self.dismiss(worker)
                found.append(Event(worker=worker, died=type(error).__name__))
            else:
                found.append(Event(worker=worker, came=came, answer=answer))
        return found

    def dismiss(self, worker: int) -> None:
        """Kill it."""
        actor = self._workers.pop(worker, None)
        self._calls = {call: one for call, one in self._calls.items() if one[0] != worker}
        self._pulses = {call: one for call, one in self._pulses.items() if one != worker}
        if actor is not None:
            self._ray.kill(actor, no_restart=True)

    def close(self) -> None:
        """End all actors, and Ray where it was started here."""
        for worker in [*self._workers]:
            self.dismiss(worker)
        if self._ours:
            self._ray.shutdown()

    def _feel(self) -> None:
        """Call all who are silent once more.

        An answer that lay on a machine that is gone never comes, and no error either; a call to an
        actor that is gone fails at once.
        """
        felt = {*self._pulses.values()}
        for worker, came in self._calls.values():
            if worker not in felt and not came:
                self._pulses[self._workers[worker].pulse.remote()] = worker

    def _felt(self, call: Any) -> list[Event]:
        worker = self._pulses.pop(call)
        try:
            self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self.dismiss(worker)
            return [Event(worker=worker, died=type(error).__name__)]
        return []


class _Actor:
    def __init__(self, work: bytes, threads: int, said: Mapping[str, Any]) -> None:
        import torch

        quiet_here(said)
        torch.set_num_threads(threads)
        self._work = pickle.loads(work)

    def begin(self) -> None:
        begin = getattr(self._work, "begin", None)
        if begin is not None:
            begin()

    def pulse(self) -> None:
        """Answer after what is being done."""

    def do(self, job: Any) -> Any:
        return self._work(job)
