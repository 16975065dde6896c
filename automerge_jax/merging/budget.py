"""A budget of memory that threads share."""

import contextlib
import threading
from collections.abc import Iterator


class Budget:
  """Bytes of memory: who wants more than is left waits."""

  def __init__(self, total: int):
    self._left = total
    self._changed = threading.Condition()

  @contextlib.contextmanager
  def spend(self, cost: int) -> Iterator[None]:
    """Holds `cost` bytes, at most the total, for the time of a `with`."""
    with self._changed:
      self._changed.wait_for(lambda: self._left >= cost)
      self._left -= cost
    try:
      yield
    finally:
      with self._changed:
        self._left += cost
        self._changed.notify_all()
