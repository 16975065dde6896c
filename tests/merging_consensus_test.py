"""MagMax, Consensus and TALL masks, entry by entry."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automerge_jax.merging import registry

K, SHAPE = 3, (4, 5)
METHODS = ('magmax', 'consensus', 'tall_mask')
many = settings(max_examples=30, deadline=None)
# Multiples of 1/16: sums are exact, ties are frequent.
stacks = hnp.arrays(
  np.float32, (K, *SHAPE), elements=st.integers(-64, 64).map(lambda i: i / 16)
)
# Quarters: their products with the deltas are exact.
thresholds = st.lists(
  st.integers(0, 8).map(lambda i: i / 4), min_size=K, max_size=K
)
methods = pytest.mark.parametrize('name', METHODS)


def merge(name, deltas, base=None, **stated):
  method = registry.get(name)
  values = {
    p.name: (p.default,) * len(deltas) if p.per_expert else p.default
    for p in method.parameters
  } | stated
  numbers = {k: np.asarray(v, np.float32) for k, v in values.items()}
  base = np.zeros_like(deltas[0]) if base is None else base
  return np.asarray(jax.jit(method.merge)(numbers, {}, base, deltas))


def masks(deltas, threshold):
  """Which entries matter to each expert, one at a time in Python."""
  found = np.zeros(deltas.shape, bool)
  for at in np.ndindex(deltas.shape):
    k, entry = at[0], at[1:]
    others = sum(float(deltas[(j, *entry)]) for j in range(K) if j != k)
    found[at] = abs(float(deltas[at])) > threshold[k] * abs(others)
  return found


@many
@given(deltas=stacks)
def test_magmax_takes_the_largest_and_of_equal_ones_the_first(deltas):
  merged = merge('magmax', deltas)
  for entry in np.ndindex(SHAPE):
    values = [float(d[entry]) for d in deltas]
    assert merged[entry] == max(values, key=abs)


@many
@given(deltas=stacks, threshold=thresholds, k=st.integers(0, 4))
def test_consensus_keeps_what_matters_to_enough(deltas, threshold, k):
  count = masks(deltas, threshold).sum(0)
  want = np.where(count >= k, deltas.sum(0), 0)
  merged = merge('consensus', deltas, threshold=threshold, k=k)
  np.testing.assert_array_equal(merged, want)


@many
@given(deltas=stacks, threshold=thresholds, task=st.integers(0, 2))
def test_tall_mask_keeps_what_matters_to_one(deltas, threshold, task):
  want = np.where(masks(deltas, threshold)[task], deltas.sum(0), 0)
  merged = merge('tall_mask', deltas, threshold=threshold, task=task)
  np.testing.assert_array_equal(merged, want)


@many
@given(deltas=stacks, threshold=thresholds)
def test_consensus_of_none_is_task_arithmetic_and_of_too_many_the_base(
  deltas, threshold
):
  every = merge('consensus', deltas, threshold=threshold, k=0)
  np.testing.assert_array_equal(every, deltas.sum(0))
  none = merge('consensus', deltas, threshold=threshold, k=K + 1)
  np.testing.assert_array_equal(none, np.zeros(SHAPE))


@methods
@many
@given(deltas=stacks, power=st.integers(-6, 6), order=st.permutations(range(K)))
def test_invariants(name, deltas, power, order):
  once = merge(name, deltas)
  scaled = merge(name, deltas * np.float32(2.0**power))
  np.testing.assert_array_equal(scaled, once * np.float32(2.0**power))
  np.testing.assert_array_equal(merge(name, -deltas), -once)
  base = np.arange(20, dtype=np.float32).reshape(SHAPE) / 4
  same = merge(name, np.zeros_like(deltas), base)
  np.testing.assert_array_equal(same, base)
  still = merge(name, deltas, base, **{'lambda': 0.0})
  np.testing.assert_array_equal(still, base)
  np.testing.assert_array_equal(merge(name, deltas, base), base + once)
  order = list(order)
  permuted = merge(name, deltas[order], task=order.index(0))
  if name == 'magmax':  # equal magnitudes of other signs go by order
    np.testing.assert_array_equal(np.abs(permuted), np.abs(once))
  else:
    np.testing.assert_array_equal(permuted, once)


@methods
@many
@given(delta=stacks.map(lambda stack: stack[:1]))
def test_one_expert_is_itself(name, delta):
  np.testing.assert_array_equal(merge(name, delta, k=1), delta[0])
