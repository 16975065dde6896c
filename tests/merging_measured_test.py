"""Fisher, DF-Merge and RegMean against their definitions, in float64."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.merging import chunks, facts, measured, registry
from automerge_jax.types import Stored

K, OUT, IN = 3, 5, 7
many = settings(max_examples=20, deadline=None)


def merge(name, stack, statistics, base=None, tensor='x.weight', **stated):
  """The merge on the device; the merge by chunks must give the same bits."""
  method, count = registry.get(name), len(stack)
  values = {
    p.name: (p.default,) * count if p.per_expert else p.default
    for p in method.parameters
  } | stated
  if base is None:
    base = np.zeros(stack.shape[1:], np.float32)
  deltas = stack - base
  fixed = facts.settings(method, values, count)
  stored = Stored(tensor, base, deltas, fixed, statistics=statistics)
  computed = facts.compute(method, stored)
  numbers = {k: np.asarray(v, np.float32) for k, v in values.items()}
  merged = np.asarray(jax.jit(method.merge)(numbers, computed, base, deltas))
  by_chunks = chunks.merge_tensor(
    method, values, base, list(stack), tensor, statistics=statistics
  )
  np.testing.assert_array_equal(by_chunks, merged)
  return merged


def draw(seed, *shape):
  return np.random.default_rng(seed).normal(size=shape).astype('f4')


def information(seed, *shape):
  found = np.square(draw(seed, *shape))
  norms = np.sqrt(np.square(found, dtype='f8').reshape(len(found), -1).sum(1))
  return {'fisher': found, 'fisher_norm': norms}


def inputs_and_grams(seed, tokens=40):
  x = draw(seed, K, tokens, IN).astype('f8')
  return x, {'gram': np.einsum('kti,ktj->kij', x, x).astype('f4') / tokens}


@many
@given(
  seed=st.integers(0, 99),
  weight=st.lists(st.integers(0, 4), min_size=K, max_size=K).filter(any),
  unit=st.booleans(),
  floor=st.sampled_from([0.0, 1e-6, 0.1]),
)
def test_fisher_is_the_weighted_mean(seed, weight, unit, floor):
  stack, statistics = draw(seed, K, OUT, IN), information(seed + 1, K, OUT, IN)
  merged = merge(
    'fisher', stack, statistics, weight=weight, unit_norm=unit, floor=floor
  )
  fisher = statistics['fisher'].astype('f8')
  if unit:
    fisher = fisher / statistics['fisher_norm'][:, None, None]
  mass = np.array(weight)[:, None, None] * np.maximum(fisher, floor)
  want = (mass * stack).sum(0) / mass.sum(0)
  np.testing.assert_allclose(merged, want, rtol=1e-4, atol=1e-6)
  chosen = stack[np.array(weight) > 0]
  assert (merged >= chosen.min(0) - 1e-5).all()
  assert (merged <= chosen.max(0) + 1e-5).all()


def test_fisher_invariants():
  stack, statistics = draw(0, K, OUT, IN), information(1, K, OUT, IN)
  once = merge('fisher', stack, statistics)
  order = [2, 0, 1]
  permuted = merge(
    'fisher', stack[order], {k: v[order] for k, v in statistics.items()}
  )
  np.testing.assert_allclose(permuted, once, atol=1e-6)
  equal = {'fisher': np.full(stack.shape, 0.3), 'fisher_norm': np.ones(K)}
  np.testing.assert_allclose(
    merge('fisher', stack, equal), stack.mean(0), atol=1e-6
  )
  np.testing.assert_allclose(
    merge('fisher', np.stack([stack[0]] * K), statistics), stack[0], atol=1e-6
  )
  one = {k: v[:1] for k, v in statistics.items()}
  np.testing.assert_allclose(merge('fisher', stack[:1], one), stack[0])
  # A common factor of all information cancels, with the norm or without.
  double = {'fisher': statistics['fisher'] * 8, 'fisher_norm': np.ones(K)}
  plain = {'fisher': statistics['fisher'], 'fisher_norm': np.ones(K)}
  np.testing.assert_allclose(
    merge('fisher', stack, double, floor=0.0),
    merge('fisher', stack, plain, floor=0.0),
    rtol=1e-6,
  )
  base = draw(2, OUT, IN)
  np.testing.assert_allclose(
    merge('fisher', stack, statistics, base), once, atol=1e-5
  )
  half = merge('fisher', stack, statistics, base, **{'lambda': 0.5})
  np.testing.assert_allclose(half, (base + once) / 2, atol=1e-5)


@many
@given(
  seed=st.integers(0, 99),
  weight=st.lists(st.floats(0, 1, width=32), min_size=K, max_size=K),
)
def test_df_merge_is_its_formula(seed, weight):
  stack, statistics = draw(seed, K, OUT, IN), information(seed + 1, K, OUT, IN)
  base = draw(seed + 2, OUT, IN)
  merged = merge('df_merge', stack, statistics, base, weight=weight)
  shares = statistics['fisher'].astype('f8')
  shares /= shares.sum(0)
  scaled = np.asarray(weight)[:, None, None] * (stack - base).astype('f8')
  want = base + K * (shares * scaled).sum(0)
  np.testing.assert_allclose(merged, want, rtol=1e-5, atol=1e-5)


def test_what_df_merge_is_in_special_cases():
  stack, base = draw(0, K, OUT, IN), draw(1, OUT, IN)
  some = information(2, K, OUT, IN)
  equal = {'fisher': np.full(stack.shape, 1e-12, np.float32)}
  nothing = {'fisher': np.zeros(stack.shape, np.float32)}
  free, mean = [0.2, 0.9, 0.4], [1 / K] * K

  def df(statistics, weight):
    return merge('df_merge', stack, statistics, base, weight=weight)

  generalised = merge('task_arithmetic', stack, {}, base, weight=free)
  for statistics in (equal, nothing):  # generalised task arithmetic
    np.testing.assert_allclose(df(statistics, free), generalised, atol=1e-5)
    np.testing.assert_allclose(df(statistics, mean), stack.mean(0), atol=1e-5)
  static = merge('fisher', stack, some, base, floor=0.0, unit_norm=0.0)
  np.testing.assert_allclose(df(some, mean), static, atol=1e-5)
  np.testing.assert_array_equal(df(some, [0.0] * K), base)
  least = {'fisher': some['fisher'] * np.float32(1e-30)}
  np.testing.assert_allclose(df(least, free), df(some, free), rtol=1e-4)


def test_fisher_without_information_is_the_mean_and_without_weight_the_base():
  stack, base = draw(0, K, OUT, IN), draw(1, OUT, IN)
  nothing = {'fisher': np.zeros(stack.shape), 'fisher_norm': np.zeros(K)}
  merged = merge('fisher', stack, nothing, floor=0.0, weight=[1.0, 1.0, 0.0])
  np.testing.assert_allclose(merged, stack[:2].mean(0), atol=1e-6)
  some = information(2, K, OUT, IN)
  merged = merge('fisher', stack, some, base, weight=[0.0] * K)
  np.testing.assert_array_equal(merged, base)


@many
@given(
  seed=st.integers(0, 99),
  weight=st.lists(st.integers(0, 4), min_size=K, max_size=K).filter(any),
  reduction=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
  ridge=st.sampled_from([0.0, 1e-6, 0.1]),
)
def test_regmean_solves_its_normal_equations(seed, weight, reduction, ridge):
  stack, (_, grams) = draw(seed, K, OUT, IN), inputs_and_grams(seed + 1)
  merged = merge(
    'regmean', stack, grams, weight=weight, reduction=reduction, ridge=ridge
  ).astype('f8')
  shares = np.array(weight) / sum(weight)
  gradient = np.zeros((OUT, IN))
  scale = 0.0
  for w, matrix, gram in zip(weight, stack, grams['gram'], strict=True):
    reduced = w * np.where(np.eye(IN) > 0, gram, reduction * gram)
    gradient += (merged - matrix) @ reduced
    scale += np.trace(reduced) / IN
  mean = np.tensordot(shares, stack, 1)
  gradient += ridge * scale * (merged - mean)
  np.testing.assert_allclose(gradient, 0, atol=1e-4)
  if reduction == 0 and ridge == 0:  # a weighted mean for each input feature
    diagonals = np.array(weight)[:, None] * np.stack(
      [np.diag(g) for g in grams['gram']]
    )
    want = (stack * diagonals[:, None]).sum(0) / diagonals.sum(0)
    np.testing.assert_allclose(merged, want, atol=1e-5)


def test_regmean_is_the_least_squares_solution():
  stack, (x, grams) = draw(0, K, OUT, IN), inputs_and_grams(1)
  merged = merge('regmean', stack, grams, reduction=1.0, ridge=0.0)
  targets = np.concatenate([x[k] @ stack[k].T for k in range(K)])
  want = np.linalg.lstsq(np.concatenate(x), targets, rcond=None)[0].T
  np.testing.assert_allclose(merged, want, atol=2e-5)


def test_regmean_invariants():
  stack, (_, grams) = draw(0, K, OUT, IN), inputs_and_grams(1)
  once = merge('regmean', stack, grams)
  order = [2, 0, 1]
  permuted = merge('regmean', stack[order], {'gram': grams['gram'][order]})
  np.testing.assert_allclose(permuted, once, atol=1e-5)
  same = merge('regmean', np.stack([stack[0]] * K), grams)
  np.testing.assert_allclose(same, stack[0], atol=1e-6)
  equal = {'gram': np.stack([grams['gram'][0]] * K)}
  np.testing.assert_allclose(
    merge('regmean', stack, equal), stack.mean(0), atol=1e-5
  )
  base = draw(2, OUT, IN)
  np.testing.assert_allclose(
    merge('regmean', stack, grams, base), once, atol=1e-5
  )
  half = merge('regmean', stack, grams, base, **{'lambda': 0.5})
  np.testing.assert_allclose(half, (base + once) / 2, atol=1e-5)
  # Conv1D stores the transpose.
  flipped = merge(
    'regmean', stack.swapaxes(1, 2), grams, tensor='h.0.mlp.c_proj.weight'
  )
  np.testing.assert_allclose(flipped.T, once, atol=1e-6)
  bias = draw(3, K, OUT)
  np.testing.assert_allclose(
    merge('regmean', bias, {}, weight=[1.0, 2.0, 1.0]),
    np.tensordot([0.25, 0.5, 0.25], bias, 1),
    atol=1e-6,
  )


def test_regmean_of_features_that_no_input_has():
  stack, (x, _) = draw(0, K, OUT, IN), inputs_and_grams(1)
  x[..., 2] = 0
  grams = {'gram': np.einsum('kti,ktj->kij', x, x).astype('f4')}
  merged = merge('regmean', stack, grams)
  np.testing.assert_allclose(merged[:, 2], stack.mean(0)[:, 2], atol=1e-5)
  with pytest.raises(ValueError, match='set ridge above 0'):
    merge('regmean', stack, grams, ridge=0.0)
  dead = {'gram': np.zeros((K, IN, IN), 'f4')}
  np.testing.assert_allclose(
    merge('regmean', stack, dead), stack.mean(0), atol=1e-6
  )


def test_errors_name_what_does_not_fit():
  stack, (_, grams) = draw(0, K, OUT, IN), inputs_and_grams(1)
  with pytest.raises(ValueError, match="no Fisher information of 'x"):
    merge('fisher', stack, {})
  short = {'fisher': np.ones((K, 2, 2)), 'fisher_norm': np.ones(K)}
  with pytest.raises(ValueError, match=r'has shape \(2, 2\)'):
    merge('fisher', stack, short)
  with pytest.raises(ValueError, match='inputs on axis -2'):
    merge('regmean', stack, grams, in_axis=-2)
  with pytest.raises(ValueError, match='and not all 0'):
    merge('regmean', stack, grams, weight=[0.0] * K)
  with pytest.raises(ValueError, match='reduction is 1'):
    merge('regmean', stack, grams, reduction=1.5)


def test_statistics_of_a_tensor():
  method = registry.get('regmean')
  gram = np.eye(2, dtype='f4')
  whole = [{'gram': {'a': gram * k}} for k in (1, 2)]
  found = measured.of_tensor(method, whole, 'a')
  np.testing.assert_array_equal(found['gram'], [gram, 2 * gram])
  assert measured.of_tensor(method, whole, 'bias') == {}
  assert measured.of_tensor(registry.get('ties'), (), 'a') == {}
  with pytest.raises(ValueError, match=r"needs \['gram'\] of every expert"):
    measured.of_tensor(method, (), 'a')
  with pytest.raises(ValueError, match=r'missing for \[1\]'):
    measured.of_tensor(method, [whole[0], {'fisher': {}}], 'a')
  with pytest.raises(ValueError, match=r"'a' is there for experts \[0\] of 2"):
    measured.of_tensor(method, [whole[0], {'gram': {}}], 'a')
