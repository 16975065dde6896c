"""The papers' definitions of sparse methods, by plain rules in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from automerge_jax.merging import chunks, registry
from automerge_jax.merging.methods import draws, thresholds

K = 3


def merge(name, base, experts, seed=0, whole=None, **stated):
  """Our merge with the paper's semantics."""
  method = registry.get(name, 'paper')
  assert method.semantics == 'paper'
  values = {
    p.name: (p.default,) * len(experts) if p.per_expert else p.default
    for p in method.parameters
  }
  return chunks.merge_tensor(
    method, values | stated, base, list(experts), 'x', seed, whole=whole
  )


def random(shape, seed=0):
  draw = np.random.default_rng(seed)
  base = draw.normal(size=shape).astype('f4')
  return base, (base + draw.normal(size=(K, *shape))).astype('f4')


def elected(deltas, weights):
  """Disjoint merge of weighted deltas, means over the agreeing weights."""
  weighted = weights * deltas
  sign = np.where(weighted.sum(0) >= 0, 1, -1)
  agrees = np.sign(weighted) == sign
  divisor = (weights * agrees).sum(0)
  return np.where(divisor > 0, (weighted * agrees).sum(0), 0) / np.where(
    divisor > 0, divisor, 1
  )


@given(
  st.lists(st.integers(0, 5), min_size=2, max_size=6),
  st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.999, 1.0]),
  st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_thresholds_are_the_kth_largest_of_the_whole_model(
  sizes, density, seed
):
  draw = np.random.default_rng(seed)
  # Few values: many entries share the upper bits, or are equal.
  stacks = [
    (f't{i}', (draw.integers(-9, 9, (2, n, 2)) / 7).astype('f4'))
    for i, n in enumerate([1, *sizes])
  ]
  known = (density, 1 - density)
  found = thresholds.of_densities(lambda: iter(stacks), {'density': known})
  every = thresholds.of_densities(lambda: iter(stacks), {})['thresholds']
  for k, fraction in enumerate(known):
    flat = np.concatenate([s[k].reshape(-1) for _, s in stacks])
    ordered = np.sort(np.abs(flat))[::-1]
    count = len(flat) if fraction >= 1 else int(fraction * len(flat))
    count = max(count, 1) if fraction > 0 else 0
    wanted = np.inf if count == 0 else ordered[count - 1]
    assert found['thresholds'][k, 0] == np.float32(wanted)
    assert every[k, round(1000 * fraction)] == np.float32(wanted)


def test_ties_trims_over_the_whole_model():
  tensors = {'a': random((6, 7)), 'b': random((40,), 1)}
  tensors['b'] = (tensors['b'][0], tensors['b'][0] + 0.01 * tensors['b'][1])

  def stacks():
    for name, (base, experts) in tensors.items():
      yield name, experts - base

  density = (0.5,) * K
  whole = thresholds.of_densities(stacks, {'density': density})
  flat = np.concatenate([s.reshape(K, -1) for _, s in stacks()], 1)
  count = flat.shape[1] // 2
  limits = np.sort(np.abs(flat), 1)[:, -count]
  for (_, deltas), (base, experts) in zip(
    stacks(), tensors.values(), strict=True
  ):
    axes = (slice(None),) + (None,) * base.ndim
    trimmed = np.where(np.abs(deltas) >= limits[axes], deltas, 0)
    wanted = base + elected(trimmed, np.ones(K)[axes])
    merged = merge('ties', base, experts, density=density, whole=whole)
    np.testing.assert_allclose(merged, wanted, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize('name', ['dare_linear', 'dare_ties'])
def test_dare_divides_by_its_density(name):
  base, experts = random((9, 11))
  density, weights = (0.3, 0.5, 1.0), (0.5, 0.7, 0.2)
  deltas = np.stack(
    [
      np.where(
        draws.uniform(4, k, 'x', base.size).reshape(base.shape) < 65536 * d,
        (expert - base) / d,
        0,
      )
      for k, (expert, d) in enumerate(zip(experts, density, strict=True))
    ]
  )
  w = np.array(weights)[:, None, None]
  total = (w * deltas).sum(0)
  if name == 'dare_ties':
    keep = np.sign(w * deltas) == np.where(total >= 0, 1, -1)
    total = (w * deltas * keep).sum(0)
  merged = merge(name, base, experts, 4, density=density, weight=weights)
  np.testing.assert_allclose(merged, base + total, rtol=2e-5, atol=2e-5)


def test_della_is_unbiased_and_keeps_large_entries_more_often():
  base, (expert, *_) = random((4, 30))
  delta = expert - base
  total, often, runs = np.zeros_like(delta), np.zeros_like(delta), 600
  for seed in range(runs):
    merged = merge(
      'della_linear',
      base,
      [expert],
      seed,
      density=(0.5,),
      weight=(1.0,),
      epsilon=(0.3,),
    )
    total += merged - base
    often += merged != base
  rank = np.argsort(np.argsort(np.abs(delta), 1), 1)
  kept = 0.2 + 0.6 * rank / 29
  # Five standard errors.
  np.testing.assert_array_less(
    np.abs(often / runs - kept), 5 * np.sqrt(kept * (1 - kept) / runs)
  )
  error = np.abs(delta) * np.sqrt((1 / kept - 1) / runs)
  np.testing.assert_array_less(np.abs(total / runs - delta), 5 * error + 1e-4)


@pytest.mark.parametrize('gamma', [0.0, 0.1, 0.4])
@pytest.mark.parametrize('density', [0.0, 0.2, 0.75, 1.0])
def test_breadcrumbs_goes_by_rows(gamma, density):
  base, experts = random((5, 20))
  weights = (0.5, 0.7, 0.2)
  wanted = base.astype('f8')
  for weight, expert in zip(weights, experts, strict=True):
    delta = expert - base
    order = np.argsort(-np.abs(delta), 1, kind='stable')
    start = int(gamma * 20)
    chosen = order[:, start : start + int(density * 20)]
    mask = np.zeros(delta.shape)
    np.put_along_axis(mask, chosen, 1, 1)
    wanted += weight * mask * delta
  merged = merge(
    'breadcrumbs',
    base,
    experts,
    density=(density,) * K,
    gamma=(gamma,) * K,
    weight=weights,
  )
  np.testing.assert_allclose(merged, wanted, rtol=2e-6, atol=2e-6)


def test_breadcrumbs_leaves_scalars():
  base, experts = np.float32(1.0), np.array([2.0, 3.0, 5.0], 'f4')
  merged = merge('breadcrumbs', base, experts, weight=(1.0, 0.0, 0.0))
  np.testing.assert_allclose(merged, 2.0)
