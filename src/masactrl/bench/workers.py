"""The same work on several processes, each with networks of its own and its share of the cores.

Edits of single pictures are small batches, at which the threads of one process wait for each other
more than they compute; a process for each core or two is faster. Of the results nothing changes but
their order, and rounding where the number of threads decides it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any, TypeVar

import torch
from transformers.utils import logging as of_transformers

from masactrl.errors import ConfigError

__all__ = ["in_parallel"]

Job = TypeVar("Job")
Answer = TypeVar("Answer")

_work: Any = None  # of a worker process, which has nothing else; the caller's stays None


def in_parallel(
    work: Callable[[Job], Answer], jobs: Iterable[Job], workers: int
) -> Iterator[tuple[Job, Answer]]:
    """Yield (job, ``work(job)``) as they are finished; one worker is the caller itself, in order.

    Args:
        work: can be pickled, with networks on the CPU; every process gets a copy.
        jobs: can be pickled.
        workers: processes, at least 1.

    Raises:
        ConfigError: ``workers`` is below 1, or ``work`` cannot be copied to another process.
        Exception: whatever ``work`` raised; jobs that have not begun are left out.
    """
    if workers < 1:
        raise ConfigError(f"workers={workers} was given; use 1 or more.")
    if workers == 1:
        for job in jobs:
            yield job, work(job)
        return
    try:
        # Plain pickle: the one of multiprocessing would move the caller's weights to shared memory.
        copied = pickle.dumps(work)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        raise ConfigError(
            f"This model cannot be copied to other processes ({error}); use one worker."
        ) from error
    threads = max(1, torch.get_num_threads() // workers)
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(copied, threads, of_transformers.get_verbosity()),
    )
    try:
        begun = {pool.submit(_one, job): job for job in jobs}
        for finished in as_completed(begun):
            yield begun[finished], finished.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin(copied: bytes, threads: int, verbosity: int) -> None:
    global _work
    # A worker whose caller was killed would wait for its next job for ever.
    threading.Thread(target=_leave_with_the_caller, daemon=True).start()
    of_transformers.set_verbosity(verbosity)  # the caller may have silenced it
    torch.set_num_threads(threads)
    _work = pickle.loads(copied)


def _leave_with_the_caller() -> None:
    caller = multiprocessing.parent_process()
    if caller is not None:
        caller.join()
        os._exit(1)


def _one(job: Any) -> Any:
    return _work(job)
