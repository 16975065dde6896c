"""What holds of every merge, whatever the numbers."""

import jax
import merging_replay
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from automerge_jax.merging import facts

K, SHAPE = 3, (4, 5)
DELTAS = ('task_arithmetic', 'ties')
ALL = ('linear', *DELTAS, 'slerp')
many = settings(max_examples=30, deadline=None)

# Multiples of 1/16: differences and doublings are exact, ties are frequent.
_sixteenths = st.integers(-64, 64).map(lambda i: i / 16)
bases = hnp.arrays(np.float32, SHAPE, elements=_sixteenths)
stacks = hnp.arrays(np.float32, (K, *SHAPE), elements=_sixteenths)
weights = st.lists(st.integers(1, 20), min_size=K, max_size=K).map(
  lambda tenths: [i / 10 for i in tenths]
)
densities = st.integers(0, 20).map(lambda i: i / 20)
methods = pytest.mark.parametrize('method', ALL)


def merge(method, base, experts, **stated):
  """A merge as in a search, with plain values for what is not stated."""
  usual = {
    'linear': {'weight': [0.5] * K},
    'task_arithmetic': {'weight': [0.5] * K},
    'ties': {'weight': [0.5] * K, 'density': [0.4] * K},
    'slerp': {'t': 0.3},
  }[method]
  stated = {k: v for k, v in stated.items() if k in _names(method)}
  case = {'method': method, 'parameters': usual | stated}
  return merging_replay.resident_rule(case, base, experts)


def _names(method):
  return {p.name for p in merging_replay.registry.get(method).parameters}


def trimmed_mask(stack, density):
  """What TIES keeps, by a plain stable sort."""
  order = np.argsort(-np.abs(stack.reshape(len(stack), -1)), 1, kind='stable')
  count = facts.kept(density, order.shape[1])
  mask = np.zeros(order.shape, bool)
  np.put_along_axis(mask, order[:, :count], True, 1)
  return mask.reshape(stack.shape)


def one_hot(k):
  """Parameters of each method that ask for expert k of the first two."""
  weight = [float(i == k) for i in range(K)]
  return {'weight': weight, 'density': [1.0] * K, 't': float(k)}


@methods
@many
@given(base=bases, weight=weights)
def test_experts_equal_to_the_base_give_the_base(method, base, weight):
  same = merge(method, base, np.stack([base] * K), weight=weight)
  if method in DELTAS:
    np.testing.assert_array_equal(same, base)
  else:
    np.testing.assert_allclose(same, base, rtol=1e-6)


@methods
@pytest.mark.parametrize('k', [0, 1])
@many
@given(base=bases, experts=stacks)
def test_one_hot_gives_the_expert(method, k, base, experts):
  merged = merge(method, base, experts, **one_hot(k))
  np.testing.assert_allclose(merged, experts[k], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('method', DELTAS)
@many
@given(base=bases, experts=stacks)
def test_no_weight_gives_the_base(method, base, experts):
  nothing = {'weight': [0.0] * K, 'lambda': 1.0}
  np.testing.assert_array_equal(merge(method, base, experts, **nothing), base)
  nothing = {'weight': [0.5] * K, 'lambda': 0.0}
  np.testing.assert_array_equal(merge(method, base, experts, **nothing), base)


@methods
@many
@given(base=bases, expert=bases, weight=weights, density=densities)
def test_identical_experts_give_the_expert(
  method, base, expert, weight, density
):
  merged = merge(
    method,
    base,
    np.stack([expert] * K),
    weight=weight,
    density=[density] * K,
    normalize=1.0,
  )
  wanted = expert
  if method == 'ties':  # the expert, trimmed
    kept = trimmed_mask((expert - base)[None], density)[0]
    wanted = base + np.where(kept, expert - base, 0)
  np.testing.assert_allclose(merged, wanted, rtol=2e-6, atol=2e-6)


@methods
@many
@given(
  base=bases,
  experts=stacks,
  weight=weights,
  order=st.permutations(range(K)),
)
def test_order_of_experts_does_not_count(method, base, experts, weight, order):
  if method == 'slerp':
    forth = merge(method, base, experts, t=0.3)
    back = merge(method, base, experts[[1, 0, 2]], t=0.7)
  else:
    if method == 'ties':  # whose election a rounding must not decide
      total = np.tensordot(np.array(weight), experts - base, 1)
      assume((np.abs(total) > 1e-3).all())
    every = {'density': [1.0] * K}
    forth = merge(method, base, experts, weight=weight, **every)
    permuted = [weight[i] for i in order]
    back = merge(method, base, experts[list(order)], weight=permuted, **every)
  np.testing.assert_allclose(back, forth, rtol=1e-5, atol=1e-5)


@methods
@many
@given(experts=stacks, weight=weights, power=st.integers(-6, 6))
def test_scaled_deltas_scale_the_merge(method, experts, weight, power):
  base, scale = np.zeros(SHAPE, np.float32), np.float32(2.0**power)
  once = merge(method, base, experts, weight=weight)
  scaled = merge(method, base, scale * experts, weight=weight)
  np.testing.assert_array_equal(scaled, scale * once)


@methods
@many
@given(experts=stacks, weight=weights)
def test_negated_deltas_negate_the_merge(method, experts, weight):
  base = np.zeros(SHAPE, np.float32)
  once = merge(method, base, experts, weight=weight)
  negated = merge(method, base, -experts, weight=weight)
  decided = np.ones(SHAPE, bool)
  if method == 'ties':  # an election that is a draw goes to + both times
    kept = trimmed_mask(experts, 0.4)
    trimmed = np.where(kept, experts, 0)
    decided = np.abs(np.tensordot(np.array(weight), trimmed, 1)) > 1e-5
  np.testing.assert_array_equal(negated[decided], -once[decided])


@pytest.mark.parametrize('method', ('linear', *DELTAS))
@many
@given(base=bases, experts=stacks, shift=bases, weight=weights)
def test_common_shift_shifts_the_merge(method, base, experts, shift, weight):
  plain = merge(method, base, experts, weight=weight, normalize=1.0)
  shifted = merge(
    method, base + shift, experts + shift, weight=weight, normalize=1.0
  )
  np.testing.assert_allclose(shifted, plain + shift, rtol=1e-5, atol=1e-5)


@many
@given(experts=stacks, weight=weights, density=densities)
def test_ties_stays_within_the_trimmed_experts(experts, weight, density):
  base = np.zeros(SHAPE, np.float32)
  merged = merge('ties', base, experts, weight=weight, density=[density] * K)
  kept = trimmed_mask(experts, density)
  trimmed = np.where(kept, experts, 0)
  assert (np.abs(merged) <= np.abs(trimmed).max(0) * (1 + 1e-6)).all()
  sums = np.tensordot(np.array(weight), trimmed, 1)
  decided = np.abs(sums) > 1e-5
  assert (np.sign(merged) * np.sign(sums) >= 0)[decided].all()


@many
@given(
  st.permutations(range(1, 21)).map(lambda p: np.array(p, np.float32)),
  densities,
)
def test_ties_keeps_just_the_largest(magnitudes, density):
  signs = np.where(np.arange(20) % 3 == 0, -1, 1)
  experts = np.stack([signs * magnitudes] * K).reshape(K, *SHAPE)
  base = np.zeros(SHAPE, np.float32)
  merged = merge(
    'ties', base, experts, **one_hot(0) | {'density': [density] * K}
  )
  count = facts.kept(density, 20)
  assert (merged != 0).sum() == count
  assert ((merged != 0) == (np.abs(experts[0]) > 20 - count)).all()


@many
@given(stacks, densities)
def test_largest_are_the_first_in_descending_order(experts, density):
  flat = np.abs(experts.reshape(K, -1))
  count = facts.kept(density, flat.shape[1])
  order = np.stack([facts.descending(row) for row in flat])
  stable = np.argsort(-flat, axis=1, kind='stable')
  np.testing.assert_array_equal(order, stable)
  for row, magnitude in zip(order, flat, strict=True):
    chosen = np.flatnonzero(facts.largest(magnitude, count))
    np.testing.assert_array_equal(chosen, np.sort(row[:count]))


@methods
@settings(max_examples=8, deadline=None)
@given(base=bases, experts=stacks, weight=weights)
def test_jit_equals_eager(method, base, experts, weight):
  stated = {'weight': weight, 'density': [0.4, 0.8, 1.0], 't': 0.3}
  stated = {k: v for k, v in stated.items() if k in _names(method)}
  case = {'method': method, 'parameters': stated}
  jitted = merging_replay.resident_rule(case, base, experts)
  with jax.disable_jit():
    eager = merging_replay.resident_rule(case, base, experts, jit=False)
  np.testing.assert_allclose(jitted, eager, rtol=1e-6, atol=1e-6)
