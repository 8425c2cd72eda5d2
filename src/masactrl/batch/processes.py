"""Workers that are processes of this machine, each with networks of its own and its share.

Edits of single pictures are small batches, at which the threads of one process wait for each other
more than they compute; a process for each core or two is faster.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from masactrl.batch.engines import Event, Here, Led
from masactrl.errors import ConfigError

__all__ = ["Processes", "copied", "in_parallel", "quiet_here", "said_here"]

Job = TypeVar("Job")
Answer = TypeVar("Answer")


def in_parallel(
    work: Callable[[Job], Answer],
    jobs: Iterable[Job],
    workers: int,
    *,
    lost: Callable[[Job, str], Answer] | None = None,
) -> Iterator[tuple[Job, Answer]]:
    """Yield (job, ``work(job)``) as they are finished; one worker is the caller itself, in order.

    Args:
        work: can be pickled, with networks on the CPU; every process gets a copy.
        jobs: can be pickled.
        workers: processes, at least 1.
        lost: ``lost(job, reason)`` is the answer of a job that killed its process twice.

    Raises:
        ConfigError: ``workers`` is below 1, ``work`` cannot be copied to another process, or a job
            killed its process twice and there is no ``lost``.
        Exception: whatever ``work`` raised; jobs that have not begun are left out.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers} was given; use 1 or more.")
    engine = Here(work) if workers == 1 else Led(Processes(work, workers))
    with engine:
        for one in engine.run(tuple(jobs) if workers > 1 else jobs):  # type: ignore[arg-type]
            if one.lost and lost is not None:
                yield one.job, lost(one.job, one.lost)
                continue
            if one.lost:
                raise ConfigError(f"A part of the work cannot be done: {one.lost}")
            yield one.job, one.answer


def copied(work: Callable[[Any], Any]) -> bytes:
    """Return the work in a form that another process can read.

    Raises:
        ConfigError: it has none.
    """
    try:
        # Plain pickle: the one of multiprocessing would move the caller's weights to shared memory.
        return pickle.dumps(work)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ConfigError(
            f"This model cannot be copied to other processes ({error}); use one worker."
        ) from error


class Processes:
    """See the head of this file.

    Args:
        work: what they do; where it has `for_worker`, each gets what that returns for its place.
        size: how many.
    """

    def __init__(self, work: Callable[[Any], Any], size: int) -> None:
        import torch

        self.size = size
        self._copies = [copied(_placed(work, place)) for place in range(size)]
        self._places: dict[int, int] = {}
        # Not the machine's cores: a cluster's job, or its user, may have been given fewer.
        self._threads = max(1, torch.get_num_threads() // size)
        self._workers: dict[int, tuple[Any, Connection]] = {}
        self._spawn = multiprocessing.get_context("spawn")

    def hire(self, worker: int) -> None:
        """Start a process."""
        free = set(range(self.size)) - {self._places[one] for one in self._workers}
        place = self._places[worker] = min(free)
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_serve,
            args=(theirs, self._copies[place], self._threads, said_here()),
            daemon=True,
        )
        process.start()
        theirs.close()  # so that its end is seen here
        self._workers[worker] = process, ours

    def give(self, worker: int, job: Any) -> None:
        """Send a job; one that died meanwhile is seen by `wait`."""
        try:
            self._workers[worker][1].send(job)
        except OSError:
            return

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return what came in the meantime."""
        ready = wait([pipe for _, pipe in self._workers.values()], timeout=seconds)
        found = []
        for worker, (_, pipe) in [*self._workers.items()]:
            if pipe not in ready:
                continue
            kind: str
            value: Any
            try:
                kind, value = pipe.recv()
            except (EOFError, OSError):
                found.append(Event(worker=worker, died=self._died(worker)))
                continue
            if kind == "came":
                found.append(Event(worker=worker, came=True))
            elif kind == "raised":
                found.append(Event(worker=worker, raised=value))
            else:
                found.append(Event(worker=worker, answer=value))
        return found

    def dismiss(self, worker: int) -> None:
        """Kill it: what hangs does not listen."""
        process, pipe = self._workers.pop(worker)
        process.kill()
        process.join()
        pipe.close()

    def close(self) -> None:
        """Let all leave, and end who does not."""
        for _, pipe in self._workers.values():
            pipe.close()
        for process, _ in self._workers.values():
            process.join(2)
        for worker in [*self._workers]:
            self.dismiss(worker)

    def _died(self, worker: int) -> str:
        process, pipe = self._workers.pop(worker)
        process.join(5)
        process.kill()
        process.join()
        pipe.close()
        code = process.exitcode or 0
        return f"signal {-code}" if code < 0 else f"exit {code}"


def _placed(work: Callable[[Any], Any], place: int) -> Callable[[Any], Any]:
    own = getattr(work, "for_worker", None)
    return work if own is None else own(place)


def said_here() -> Mapping[str, Any]:
    """How much the libraries say in this process."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    return {
        "verbosity": of_transformers.get_verbosity(),
        "bars": of_transformers.is_progress_bar_enabled(),
        "diffusers": of_diffusers.get_verbosity(),
    }


def quiet_here(said: Mapping[str, Any]) -> None:
    """Let the libraries say as much as in the process that started this one."""
    from diffusers.utils import logging as of_diffusers
    from transformers.utils import logging as of_transformers

    of_transformers.set_verbosity(said["verbosity"])
    of_diffusers.set_verbosity(said["diffusers"])
    if not said["bars"]:
        of_transformers.disable_progress_bar()
        of_diffusers.disable_progress_bar()


def _serve(pipe: Connection, work: bytes, threads: int, said: Mapping[str, Any]) -> None:
    """Be a worker: take jobs from the pipe until it ends."""
    # A worker whose caller was killed would wait for its next job for ever.
    threading.Thread(target=_leave_with_the_caller, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller says when to stop
    import torch

    quiet_here(said)
    torch.set_num_threads(threads)
    try:
        do = pickle.loads(work)
        begin = getattr(do, "begin", None)
        if begin is not None:  # what takes its time before the first job
            begin()
    except Exception as error:  # noqa: BLE001 - raised again where it can be answered
        pipe.send(("raised", _sendable(error)))
        return
    pipe.send(("came", None))
    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = "answer", do(job)
        except Exception as error:  # noqa: BLE001 - raised again where it can be answered
            answer = "raised", _sendable(error)
        pipe.send(answer)


def _sendable(error: Exception) -> Exception:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception may refuse in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _leave_with_the_caller() -> None:
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)
