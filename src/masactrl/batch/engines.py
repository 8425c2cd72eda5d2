"""The same work on one process, on several, or on a cluster: what an engine is, and its one loop.

`work` is a function of a job that can be copied to another process with what it holds (networks on
the CPU, or a value from which it loads them there). Of the results nothing changes but their order,
and rounding where the number of threads decides it.

    in this process     one job after the other
    a crew              workers of another process or machine: one job a worker and call. Who dies
                        is replaced and the job given once more, alone; then it has failed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from masactrl.batch.queue import JobQueue
from masactrl.errors import MasaCtrlError

__all__ = ["Crew", "Engine", "Event", "Finished", "Here", "Led", "never"]

_TICK = 0.5  # seconds after which a loop that waits looks whether it should stop
_FALSE_STARTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A job and what came of it: the answer of `work`, or why there is none."""

    job: Any
    answer: Any = None
    lost: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a worker did: came, answered, raised, or died."""

    worker: int
    came: bool = False
    answer: Any = None
    raised: BaseException | None = None
    died: str = ""


class Engine(Protocol):
    """Runs jobs; used in a `with` block, at whose end its workers go."""

    def __enter__(self) -> Engine: ...

    def __exit__(self, *error: object) -> None: ...

    def run(self, jobs: Sequence[Any]) -> Iterator[Finished]:
        """Yield every job as it is finished; what `work` raises is raised here."""
        ...


class Crew(Protocol):
    """Workers of one kind; a worker is known by its number."""

    size: int

    def hire(self, worker: int) -> None:
        """Start a worker; an event says when it is there."""
        ...

    def give(self, worker: int, job: Any) -> None:
        """Give it a job."""
        ...

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what happened, at the latest after so many seconds."""
        ...

    def dismiss(self, worker: int) -> None:
        """End it, whatever it is doing."""
        ...

    def close(self) -> None:
        """End all, and what they stand on."""
        ...


def never() -> bool:
    """Say that nobody asked for a stop."""
    return False


class Here:
    """This process alone, one job after the other."""

    def __init__(self, work: Callable[[Any], Any], *, stopping: Callable[[], bool] = never) -> None:
        self._work, self._stopping = work, stopping

    def __enter__(self) -> Here:
        return self

    def __exit__(self, *error: object) -> None:
        del error

    def run(self, jobs: Sequence[Any]) -> Iterator[Finished]:
        """Yield every job in its order."""
        for job in jobs:
            if self._stopping():
                return
            yield Finished(job=job, answer=self._work(job))


@dataclass(slots=True)
class _Hand:
    """A worker: whether it is there, and what it does until when."""

    here: bool = False
    job: Any = None
    until: float | None = None


class Led:
    """A crew and its loop.

    Args:
        crew: who works.
        time_limit: seconds a job may take; one of several rows (`len(job)`) so many times as much.
        stopping: whether to begin nothing more.
    """

    def __init__(
        self,
        crew: Crew,
        *,
        time_limit: float | None = None,
        stopping: Callable[[], bool] = never,
    ) -> None:
        self._crew, self._limit, self._stopping = crew, time_limit, stopping
        self._hands: dict[int, _Hand] = {}
        self._hired = self._false_starts = 0

    def __enter__(self) -> Led:
        return self

    def __exit__(self, *error: object) -> None:
        del error
        self._crew.close()

    def run(self, jobs: Sequence[Any]) -> Iterator[Finished]:
        """Yield every job as it is finished.

        Raises:
            MasaCtrlError: no worker comes.
            Exception: what `work` raised.
        """
        queue, tried = JobQueue(jobs), set[int]()
        while True:
            if self._stopping():
                queue.clear()
            busy = sum(hand.job is not None for hand in self._hands.values())
            if not queue and not busy:
                return
            self._staff(len(queue) + busy)
            for worker, hand in self._hands.items():
                if hand.here and hand.job is None:
                    self._give(worker, queue.next(worker))
            for event in self._crew.wait(_TICK):
                if event.worker in self._hands:  # and was not dismissed meanwhile
                    yield from self._seen(event, queue, tried)
            for worker in self._late():
                hand = self._hands.pop(worker)
                self._crew.dismiss(worker)
                queue.leave(worker)
                if len(_parts(hand.job)) > 1:
                    queue.again(_parts(hand.job))
                    continue
                limit = f"{self._limit:g} seconds"
                yield Finished(job=hand.job, lost=f"It took longer than the limit of {limit}.")

    def _staff(self, wanted: int) -> None:
        while len(self._hands) < min(self._crew.size, wanted):
            self._hands[self._hired] = _Hand()
            self._crew.hire(self._hired)
            self._hired += 1

    def _give(self, worker: int, job: Any) -> None:
        if job is None:
            return
        hand = self._hands[worker]
        hand.job = job
        if self._limit is not None:
            hand.until = time.monotonic() + self._limit * len(_parts(job))
        self._crew.give(worker, job)

    def _seen(self, event: Event, queue: JobQueue, tried: set[int]) -> Iterator[Finished]:
        hand = self._hands[event.worker]
        if event.came:
            hand.here, self._false_starts = True, 0
            return
        if event.raised is not None:
            raise event.raised
        job, hand.job, hand.until = hand.job, None, None
        if not event.died:
            yield Finished(job=job, answer=event.answer)
            return
        del self._hands[event.worker]
        queue.leave(event.worker)
        if not hand.here:
            self._false_starts += 1
            if self._false_starts >= _FALSE_STARTS:
                raise MasaCtrlError(f"No worker comes: {event.died}.")
        if job is None:
            return
        if len(_parts(job)) > 1:  # one of them may be the reason
            queue.again(_parts(job))
        elif id(job) in tried:
            yield Finished(job=job, lost=f"Its process died twice ({event.died}).")
        else:
            tried.add(id(job))
            queue.again([job])

    def _late(self) -> list[int]:
        now = time.monotonic()
        hands = self._hands.items()
        return [n for n, hand in hands if hand.until is not None and hand.until < now]


def _parts(job: Any) -> Sequence[Any]:
    """The jobs of one row that a job can be taken apart to; itself where it cannot."""
    parts = getattr(job, "parts", None)
    return (job,) if parts is None else tuple(parts())
