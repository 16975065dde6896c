"""Results of costly functions that are kept by content."""

import numpy as np
import pytest

from automerge_jax.merging.remembered import remembered


def _counted(most):
  calls = []

  def double(array):
    calls.append(array.shape)
    return 2 * array

  return remembered(double, most), calls


def test_equal_content_is_computed_once():
  double, calls = _counted(10_000)
  first = double(np.arange(6.0))
  np.testing.assert_array_equal(first, 2 * np.arange(6.0))
  assert double(np.arange(6.0).copy()) is first
  double(np.arange(6.0).reshape(2, 3))  # the same bytes in another shape
  double(np.arange(6.0, dtype=np.float32))
  changed = np.arange(6.0)
  changed[3] = 9
  assert double(changed)[3] == 18
  assert len(calls) == 4
  with pytest.raises(ValueError, match='read-only'):
    first[0] = 1


def test_nothing_more_is_kept_than_there_is_room_for():
  double, calls = _counted(100)
  for _ in range(3):
    double(np.zeros(10))  # 80 bytes
    double(np.ones(10))
  assert len(calls) == 1 + 3
  view = np.arange(20.0)[::2]
  np.testing.assert_array_equal(double(view), 2 * view)
