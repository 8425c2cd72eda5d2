"""Who does what next: jobs that share something stay with the worker that has it."""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable
from typing import Any

__all__ = ["JobQueue"]


class JobQueue:
    """Jobs in groups (`job.group`, or none), in their order.

    A worker goes on with its own group, then takes the first that nobody has, then helps with the
    longest.
    """

    def __init__(self, jobs: Iterable[Any]) -> None:
        self._groups: dict[Hashable, deque[Any]] = {}
        self._with: dict[Hashable, Hashable] = {}  # worker -> group
        self._count = 0
        for job in jobs:
            self._of(job).append(job)

    def __len__(self) -> int:
        return self._count

    def again(self, jobs: Iterable[Any]) -> None:
        """Put jobs back; they come next."""
        for job in reversed([*jobs]):
            self._of(job).appendleft(job)

    def next(self, worker: Hashable) -> Any | None:
        """Return a worker's next job; None where there is none."""
        mine = self._with.get(worker)
        if mine not in self._groups:
            if not self._groups:
                return None
            taken = set(self._with.values())
            mine = next((group for group in self._groups if group not in taken), None)
            if mine is None:
                mine = max(self._groups, key=lambda group: len(self._groups[group]))
        self._with[worker] = mine
        job = self._groups[mine].popleft()
        self._count -= 1
        if not self._groups[mine]:
            del self._groups[mine]
        return job

    def leave(self, worker: Hashable) -> None:
        """Forget a worker that is gone."""
        self._with.pop(worker, None)

    def clear(self) -> None:
        """Drop what has not begun."""
        self._groups.clear()
        self._count = 0

    def _of(self, job: Any) -> deque[Any]:
        """The place for one more job."""
        self._count += 1
        group = getattr(job, "group", None)
        # A job of its own is its own group.
        return self._groups.setdefault(id(job) if group is None else group, deque())
