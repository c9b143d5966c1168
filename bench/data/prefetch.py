"""Draw batches ahead of the trainer in threads, in the same order and with the same values as without threads.

A batch is a function of (seed, step) alone, so threads need not coordinate.

B batch, C channels, H W image size.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

Batch = tuple[Tensor, ...]
BatchRequest = tuple[int, int, int]
"""(step, images seen before it, images in its batch)."""


class PrefetchLoader:
    """Iterator over the batches of `steps`, drawn ahead by `workers` threads; 0 workers draw on demand.

    At most workers + 1 batches wait in memory.  With `pin` this memory is page-locked, so that copies to a
    GPU are asynchronous.  An exception in `draw` is raised when its step is requested.  As a context manager the loader
    ends its threads on exit, even if steps remain.
    """

    def __init__(
        self, draw: Callable[[int, int, int], Batch], steps: Iterable[BatchRequest], workers: int, pin: bool = False
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers is {workers}; it must be at least 0, which draws in the trainer's thread")
        self._draw, self._steps, self._pin, self._ahead = draw, iter(steps), pin, workers + 1
        self._waiting: deque[Future[Batch]] = deque()
        self._threads: ThreadPoolExecutor | None = None
        if workers:
            device = torch.cuda.current_device() if pin else None
            self._threads = ThreadPoolExecutor(workers, "loader", initializer=set_thread_device, initargs=(device,))

    def _draw_batch(self, step: BatchRequest) -> Batch:
        batch = self._draw(*step)
        return tuple(z.pin_memory() for z in batch) if self._pin else batch

    def _fill(self) -> None:
        if self._threads is None:
            return
        for step in itertools.islice(self._steps, self._ahead - len(self._waiting)):
            self._waiting.append(self._threads.submit(self._draw_batch, step))

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        if self._threads is None:
            return self._draw_batch(next(self._steps))
        self._fill()
        if not self._waiting:
            raise StopIteration
        batch = self._waiting.popleft().result()
        self._fill()
        return batch

    def close(self) -> None:
        """End the threads once their current batches are drawn; no further batch can be requested."""
        self._steps = iter(())
        self._waiting.clear()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> PrefetchLoader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def set_thread_device(index: int | None) -> None:
    """Set the CUDA device of a new thread, which starts on GPU 0; memory is pinned for the GPU of the process."""
    if index is not None:
        torch.cuda.set_device(index)
