"""Threads over tensors: each merges or prepares one tensor at a time."""

import concurrent.futures
import contextlib
import os
from collections.abc import Iterator

import threadpoolctl


@contextlib.contextmanager
def pool(
  workers: int | None = None,
) -> Iterator[concurrent.futures.ThreadPoolExecutor]:
  """Threads, one a processor, in each of which linear algebra has one thread.

  Threads of BLAS beside these would wait for each other; and its results
  depend on their number, which must not differ between a search and an export.
  """
  with (
    threadpoolctl.threadpool_limits(1, 'blas'),
    concurrent.futures.ThreadPoolExecutor(workers or os.cpu_count()) as threads,
  ):
    yield threads
