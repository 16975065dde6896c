"""Methods that look at angles: what holds whatever the numbers."""

import merging_replay
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.merging import chunks, registry
from automerge_jax.merging.methods import karcher

SHAPE = (5, 4)
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
# Parameters of each method for K experts, and whether K is free.
USUAL = {
  'nuslerp': lambda k: {'weight': (0.5,) * k},
  'multislerp': lambda k: {'weight': (0.5,) * k},
  'karcher': lambda k: {},
  'model_stock': lambda k: {},
}
FREE = ('multislerp', 'karcher', 'model_stock')
every = pytest.mark.parametrize('method', USUAL)
free = pytest.mark.parametrize('method', FREE)


def draw(seed, count=3, related=1.0):
  """Base and experts whose task vectors have much in common."""
  random = np.random.default_rng(seed)
  base, common = random.normal(size=(2, *SHAPE))
  deltas = related * common + random.normal(size=(count, *SHAPE))
  return base.astype('f4'), (base + deltas).astype('f4')


def merge(method, base, experts, semantics='mergekit-0.1.5', **stated):
  case = {
    'method': method,
    'semantics': semantics,
    'parameters': USUAL[method](len(experts)) | stated,
  }
  return merging_replay.by_tensor(case, base, np.asarray(experts, np.float32))


@every
@few
@given(seeds)
def test_identical_experts_give_the_expert(method, seed):
  base, (expert, *_) = draw(seed)
  merged = merge(method, base, [expert] * 2)
  np.testing.assert_allclose(merged, expert, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('method', ['nuslerp', 'multislerp', 'model_stock'])
@few
@given(seeds)
def test_experts_equal_to_the_base_give_the_base(method, seed):
  base, _ = draw(seed)
  merged = merge(method, base, [base] * 2)
  np.testing.assert_array_equal(merged, base)


@free
@few
@given(seeds, st.permutations(range(3)))
def test_order_of_experts_does_not_count(method, seed, order):
  base, experts = draw(seed)
  forth = merge(method, base, experts)
  back = merge(method, base, experts[list(order)])
  np.testing.assert_allclose(back, forth, rtol=1e-4, atol=1e-5)


@every
@few
@given(seeds, st.integers(0, 4))
def test_scaled_deltas_scale_the_merge(method, seed, power):
  base, experts = draw(seed, count=2)
  zero, scale = np.zeros_like(base), np.float32(2.0**power)
  once = merge(method, zero, experts)
  scaled = merge(method, zero, scale * experts)
  np.testing.assert_allclose(scaled, scale * once, rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(
    merge(method, zero, -experts), -once, rtol=1e-5, atol=1e-5
  )


@every
@few
@given(seeds)
def test_turning_space_turns_the_merge(method, seed):
  """Angles know no axes: entries mixed by a rotation give rotated entries."""
  base, experts = draw(seed, count=2)
  square = np.random.default_rng(seed).normal(size=(base.size,) * 2)
  turn = np.linalg.qr(square)[0]

  def turned(tensor):
    return (turn @ tensor.reshape(-1)).reshape(SHAPE).astype(np.float32)

  merged = merge(method, base, experts)
  again = merge(method, turned(base), [turned(e) for e in experts])
  np.testing.assert_allclose(again, turned(merged), rtol=1e-3, atol=1e-4)


@few
@given(seeds)
def test_half_way_all_spherical_means_agree_in_direction(seed):
  _, experts = draw(seed, count=2)
  zero = np.zeros(SHAPE, np.float32)
  units = (
    experts / np.linalg.norm(experts.reshape(2, -1), axis=1)[:, None, None]
  )
  half = merge('nuslerp', zero, units)
  np.testing.assert_allclose(merge('karcher', zero, units), half, atol=1e-6)
  np.testing.assert_allclose(merge('multislerp', zero, units), half, atol=1e-6)
  assert np.linalg.norm(half) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize('flatten', [True, False])
@few
@given(seeds, st.sampled_from([-1.0, -0.8, -0.3]))
def test_opposite_vectors_are_mixed_linearly(flatten, seed, size):
  _, (vector, *_) = draw(seed)
  zero = np.zeros(SHAPE, np.float32)
  merged = merge(
    'nuslerp',
    zero,
    [vector, np.float32(size) * vector],
    weight=(1.0, 3.0),
    nuslerp_flatten=flatten,
  )
  wanted = (0.25 + 0.75 * size) * vector
  np.testing.assert_allclose(merged, wanted, rtol=1e-5, atol=1e-6)


@few
@given(seeds)
def test_columns_turn_like_the_rows_of_the_transpose(seed):
  base, experts = draw(seed, count=2)
  options = {'weight': (1.0, 2.0), 'nuslerp_flatten': False}
  rows = merge('nuslerp', base, experts, **options)
  columns = merge(
    'nuslerp',
    base.T,
    experts.transpose(0, 2, 1),
    nuslerp_row_wise=1.0,
    **options,
  )
  np.testing.assert_allclose(columns.T, rows, rtol=1e-6, atol=1e-6)


def test_karcher_means_have_no_pull():
  """At the mean the tangents towards all vectors sum to zero."""
  random = np.random.default_rng(0)
  vectors = random.normal(size=(4, 30)) + random.normal(size=30)
  weights = karcher.mean(vectors @ vectors.T, 100, 1e-12)
  norms = np.linalg.norm(vectors, axis=1)
  point = weights @ vectors
  assert np.linalg.norm(point) == pytest.approx(norms.mean())
  point = point / np.linalg.norm(point)
  units = vectors / norms[:, None]
  angles = np.arccos(units @ point)
  tangents = units - np.outer(units @ point, point)
  pull = (angles / np.sin(angles)) @ tangents
  assert np.linalg.norm(pull) < 1e-7


def test_a_direction_of_no_length_counts_in_the_norm_alone():
  _, (vector, *_) = draw(0)
  merged = merge('karcher', np.zeros_like(vector), [vector, 0 * vector])
  np.testing.assert_allclose(merged, vector / 2, rtol=1e-6)


def test_model_stock_of_two_at_a_known_angle():
  """c = ½ gives t = 2c / (1 + c) = ⅔ of the way to the mean."""
  base = np.array([1.0, 1.0], np.float32)
  deltas = np.array([[1.0, 0.0], [0.5, np.sqrt(0.75)]])
  merged = merge('model_stock', base, base + deltas)
  wanted = base + 2 / 3 * deltas.mean(axis=0)
  np.testing.assert_allclose(merged, wanted, rtol=1e-6)


def test_model_stocks_semantics_differ_where_mergekit_has_a_floor():
  base, experts = draw(1)
  zero = np.zeros_like(base)
  small = 1e-6 * (experts - base)
  paper = merge('model_stock', zero, small, semantics='paper')
  theirs = merge('model_stock', zero, small)
  scaled = merge('model_stock', zero, experts - base, semantics='paper')
  np.testing.assert_allclose(paper, 1e-6 * scaled, rtol=1e-4, atol=1e-12)
  assert np.abs(theirs).max() < 1e-3 * np.abs(paper).max()


def test_model_stocks_semantics_differ_for_opposed_experts():
  base = np.zeros(2, np.float32)
  experts = np.array([[1.0, 0.0], [-0.5, np.sqrt(0.75)]])
  paper = merge('model_stock', base, experts, semantics='paper')
  np.testing.assert_array_equal(paper, base)
  theirs = merge('model_stock', base, experts)  # c = -½, t = -2
  np.testing.assert_allclose(theirs, -2 * experts.mean(axis=0), rtol=1e-5)


def test_rows_of_their_own_angle():
  base, experts = draw(2)
  merged = merge('model_stock', base, experts, filter_wise=1.0)
  for row in range(len(base)):
    alone = merge('model_stock', base[row], experts[:, row])
    np.testing.assert_allclose(merged[row], alone, rtol=1e-5, atol=1e-6)


def test_large_tensors_are_merged_in_chunks_alike():
  """Rows that straddle chunks keep their own angles."""
  random = np.random.default_rng(3)
  base, *experts = random.normal(size=(3, 700, 1600)).astype(np.float32)
  method = registry.get('nuslerp')
  stated = {
    'weight': (1.0, 2.0),
    'nuslerp_flatten': 0.0,
    'nuslerp_row_wise': 0.0,
  }
  merged = chunks.merge_tensor(method, stated, base, experts)
  for row in (0, 655, 656, 699):  # a chunk ends within row 655
    alone = chunks.merge_tensor(
      method, stated, base[row], [e[row] for e in experts]
    )
    np.testing.assert_allclose(merged[row], alone, rtol=1e-5, atol=1e-6)
