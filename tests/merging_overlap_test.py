"""Methods that look at variances, overlaps and importances: invariants."""

import merging_replay
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from automerge_jax.merging.methods import arcee_fusion

SHAPE = (6, 7)
few = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**32 - 1)
MANY = ('sce', 'ram', 'ramplus_tl')
methods = pytest.mark.parametrize('method', MANY)


def draw(seed, count=3, density=1.0):
  """Base and experts, of which only a share of the entries has moved."""
  random = np.random.default_rng(seed)
  base = random.normal(size=SHAPE)
  deltas = random.normal(size=(count, *SHAPE))
  deltas *= random.random(deltas.shape) < density
  return base.astype('f4'), (base + deltas).astype('f4')


def merge(method, base, experts, semantics='mergekit-0.1.5', **stated):
  case = {'method': method, 'semantics': semantics, 'parameters': stated}
  return merging_replay.by_tensor(case, base, np.asarray(experts, np.float32))


@methods
@few
@given(seeds)
def test_one_expert_comes_back(method, seed):
  base, experts = draw(seed, count=1, density=0.5)
  merged = merge(method, base, experts)
  # RAM leaves out what moved by no more than 1e-5.
  np.testing.assert_allclose(merged, experts[0], rtol=1e-6, atol=1.1e-5)


@methods
@few
@given(seeds)
def test_experts_equal_to_the_base_give_the_base(method, seed):
  base, _ = draw(seed)
  for told in ({}, {'select_topk': 0.5}):
    merged = merge(method, base, [base] * 3, **told)
    np.testing.assert_array_equal(merged, base)


@methods
@few
@given(seeds)
def test_identical_experts_give_the_expert(method, seed):
  base, (expert, *_) = draw(seed, density=0.5)
  merged = merge(method, base, [expert] * 3)
  np.testing.assert_allclose(merged, expert, rtol=1e-5, atol=1.1e-5)


@methods
@few
@given(seeds, st.permutations(range(3)))
def test_order_of_experts_does_not_count(method, seed, order):
  base, experts = draw(seed, density=0.7)
  assume((np.abs((experts - base).sum(axis=0)) > 1e-5).sum() > 0)
  forth = merge(method, base, experts)
  back = merge(method, base, experts[list(order)])
  np.testing.assert_allclose(back, forth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('semantics', ['mergekit-0.1.5', 'paper'])
@few
@given(seeds, st.sampled_from([1.0, 0.6, 0.2]))
def test_sce_scales_with_its_deltas(semantics, seed, share):
  base, experts = draw(seed)
  zero = np.zeros_like(base)
  once = merge('sce', zero, experts, semantics, select_topk=share)
  scaled = merge('sce', zero, 4 * experts, semantics, select_topk=share)
  np.testing.assert_allclose(scaled, 4 * once, rtol=1e-6)


@few
@given(seeds, st.integers(0, 20).map(lambda i: i / 20))
def test_sce_keeps_what_varies_most(seed, share):
  base, experts = draw(seed, density=0.6)
  zero = np.zeros_like(base)
  deltas = (experts - base).astype(np.float32)
  merged = merge('sce', zero, deltas, select_topk=share)
  variance = deltas.astype(np.float64).var(axis=0)
  count = int((variance > 0).sum() * share)
  moved = merged != 0
  assert moved.sum() == count
  if 0 < count < moved.size:
    assert variance[moved].min() >= variance[~moved].max()


@few
@given(seeds)
def test_sce_stays_within_the_experts_that_agree(seed):
  base, experts = draw(seed)
  zero = np.zeros_like(base)
  merged = merge('sce', zero, experts)
  elected = np.where(experts.sum(axis=0) >= 0, 1, -1)
  agreeing = np.where(np.sign(experts) == elected, np.abs(experts), 0)
  assert (np.abs(merged) <= agreeing.max(axis=0) * (1 + 1e-6)).all()
  assert (np.sign(merged) * elected >= 0).all()


def test_sces_semantics_differ_below_mergekits_floor():
  """An expert of twice the deltas counts four times; not where all is small."""
  base, experts = draw(0, count=2)
  zero = np.zeros_like(base)
  uneven = np.abs(experts) * np.array([1, 2], np.float32)[:, None, None]
  large, small = uneven, 1e-4 * uneven
  paper = merge('sce', zero, large, 'paper')
  np.testing.assert_allclose(merge('sce', zero, large), paper, rtol=1e-6)
  np.testing.assert_allclose(
    merge('sce', zero, small, 'paper'), 1e-4 * paper, rtol=1e-5
  )
  np.testing.assert_allclose(
    merge('sce', zero, small), small.mean(axis=0), rtol=1e-5
  )


@pytest.mark.parametrize('method', ['ram', 'ramplus_tl'])
def test_disjoint_experts_are_added(method):
  base, experts = draw(1)
  places = np.arange(base.size).reshape(SHAPE) % 3
  deltas = np.stack([np.where(places == k, experts[k], 0) for k in range(3)])
  merged = merge(method, base, base + deltas)
  np.testing.assert_allclose(merged, base + deltas.sum(axis=0), atol=2e-5)


def test_ram_by_hand():
  zero = np.zeros(5, np.float32)
  experts = [[1.0, 2.0, 0.0, 4.0, 1e-6], [0.0, 4.0, 3.0, -2.0, 0.0]]
  merged = merge('ram', zero, experts)
  np.testing.assert_allclose(merged, [1.0, 3.0, 3.0, 1.0, 0.0])
  # Each shares two entries and has one of its own: 2 > alpha, so 1 + r alpha.
  merged = merge('ramplus_tl', zero, experts, r=0.5, alpha=0.2)
  np.testing.assert_allclose(merged, [1.1, 3.0, 3.3, 1.0, 0.0], rtol=1e-6)
  merged = merge('ramplus_tl', zero, experts, r=0.5, alpha=9.0)
  np.testing.assert_allclose(merged, [2.0, 3.0, 6.0, 1.0, 0.0], rtol=1e-6)


@few
@given(seeds, st.integers(1, 3000).map(lambda i: i / 1000))
def test_nearswap_moves_by_t_at_most(seed, t):
  base, (expert, *_) = draw(seed)
  merged = merge('nearswap', base, [expert], t=t)
  step = np.clip(expert - base, -t, t)
  np.testing.assert_allclose(merged, base + step, rtol=1e-5, atol=1e-6)


@few
@given(seeds)
def test_arcee_copies_just_what_is_important(seed):
  base, (expert, *_) = draw(seed)
  merged = merge('arcee_fusion', base, [expert])

  def softmax(rows):
    exponents = np.exp(rows.astype(np.float64))
    return exponents / exponents.sum(axis=1, keepdims=True)

  p, q = softmax(expert), softmax(base)
  gain = (p * (np.log(p + 1e-8) - np.log(q + 1e-8))).sum(1, keepdims=True)
  importance = np.abs(expert - base) * gain
  quarters = [0.25, 0.5, 0.75]
  first, median, third = np.quantile(importance, quarters, method='lower')
  limit = median + 1.5 * (third - first)
  wanted = np.where(importance >= limit * (1 - 1e-6), expert, base)
  np.testing.assert_allclose(merged, wanted, rtol=1e-6, atol=1e-6)
  assert (merged != base).sum() < merged.size


@few
@given(seeds, st.integers(1, 60))
def test_quantiles_of_thresholds_are_the_entries_below(seed, size):
  values = np.random.default_rng(seed).random(size).astype(np.float32)
  quarters = [0.25, 0.5, 0.75]
  first, median, third = np.quantile(values, quarters, method='lower')
  found = arcee_fusion.threshold(values)
  assert found == pytest.approx(median + 1.5 * (third - first))


def test_importance_in_parts_is_that_of_the_whole():
  random = np.random.default_rng(2)
  base, delta = random.normal(size=(2, 700, 800)).astype(np.float32)
  whole = arcee_fusion.importance(base, delta)
  for row in (0, 326, 327, 328, 699):  # a part ends behind row 327
    part = slice(row, row + 1)
    alone = arcee_fusion.importance(base[part], delta[part])
    np.testing.assert_allclose(whole[part], alone, rtol=1e-6)


@pytest.mark.parametrize('scale', [1.0, 0.0, -0.5, 3.0])
def test_passthrough_scales_its_model(scale):
  _, (expert, *_) = draw(3)
  merged = merge('passthrough', None, [expert], scale=(scale,))
  np.testing.assert_array_equal(merged, np.float32(scale) * expert)
