"""The surrogate: against scikit-learn, tinygp's direct form, and functions."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tinygp

from automerge_jax.search import kernels, observations, surrogate
from experiments.bench import problems
from tests import surrogate_replay

GOLDEN = pathlib.Path(__file__).parent / 'testdata'
SHARES = np.array([0.1, 0.2, 0.7])
D, N = 6, 48
SPACE = problems.typed([0, 0, 3, 0, 0, 4])
PROCESS = surrogate.surrogate(SPACE)
HYPER = surrogate.Hyper(
  *(np.asarray(v, np.float32) for v in ([0.2, 0.8], 0.3, -2.0, -3.0))
)


def draw(count, seed=0, objectives=2):
  """Observations of a smooth function at random rungs."""
  rng = np.random.default_rng(seed)
  x = rng.random((count, D)).astype(np.float32)
  x[:, [2, 5]] = (np.floor(x[:, [2, 5]] * [3, 4]) + 0.5) / [3, 4]
  rung = rng.integers(0, 3, count)
  share = SHARES[rung] * rng.choice([0.5, 1.0], count)
  value = np.stack(
    [np.sin(3 * x[:, 0] + m) + (x[:, 2] > 0.4) for m in range(objectives)], 1
  )
  variance = 0.01 / share[:, None] * rng.uniform(0.5, 1, value.shape)
  value = value + rng.normal(size=value.shape) * variance**0.5
  return [
    observations.Observation(*row, rank)
    for *row, rank in zip(
      x, rung, share, value, variance, value.sum(1), strict=True
    )
  ]


def asked(count=9):
  return np.random.default_rng(7).random((count, D)).astype(np.float32)


def test_posterior_and_evidence_are_scikit_learns():
  with np.load(GOLDEN / 'surrogate_scikit_learn_1.9.1.npz') as file:
    assert surrogate_replay.compare(dict(file)) == 8


def direct(hyper, rows, x):
  """Mean and variance [Q] of one objective by tinygp alone, without masks."""
  of, owner = PROCESS.features, PROCESS.features.spread(PROCESS.groups)
  value = np.array([row.value[0] for row in rows])
  variance = np.array([row.variance[0] for row in rows]) / value.var()
  y = (value - value.mean()) / value.std()

  def points(x, rung, share):
    z = of(jnp.asarray(x)) / jnp.exp(hyper.scale)[owner][None]
    return {'z': z, 'rung': jnp.asarray(rung), 'share': jnp.asarray(share)}

  class Pairwise(tinygp.kernels.Kernel):
    """Entry by entry, with the published Matern."""

    def evaluate(self, X1, X2):
      plain = tinygp.kernels.Matern52(distance=tinygp.kernels.L2Distance())
      both = jnp.maximum(X1['share'], X2['share'])
      meets = (X1['rung'] == X2['rung']) | (X1['rung'] < 0) | (X2['rung'] < 0)
      common = 1 + jnp.where(meets, jnp.exp(hyper.residual) / both, 0.0)
      return (
        jnp.exp(hyper.amplitude) * plain.evaluate(X1['z'], X2['z']) * common
      )

  noise = np.exp(hyper.noise) + 1e-4 * np.exp(hyper.amplitude)
  gp = tinygp.GaussianProcess(
    Pairwise(),
    points(
      np.stack([row.x for row in rows]),
      np.array([row.rung for row in rows]),
      np.array([row.share for row in rows]),
    ),
    diag=jnp.asarray(variance + noise),
  )
  y = jnp.asarray(y)
  to = points(x, np.full(len(x), -1), np.ones(len(x)))
  found = gp.condition(y, to).gp
  return (
    found.mean * value.std() + value.mean(),
    found.variance * value.var(),
    gp.log_probability(y),
  )


def test_masked_process_is_tinygps_direct_form():
  rows = draw(30, objectives=1)
  fitted = PROCESS.condition(HYPER, observations.table(rows, N, D, 1))
  mean, variance = PROCESS.predict(asked(), fitted)
  there = direct(HYPER, rows, asked())
  np.testing.assert_allclose(mean[:, 0], there[0], atol=2e-3)
  np.testing.assert_allclose(variance[:, 0], there[1], rtol=5e-3)
  np.testing.assert_allclose(fitted.evidence[0], there[2], atol=0.02)


def test_rows_that_hold_nothing_change_nothing():
  table = observations.table(draw(30), N, D, 2)
  empty = ~table.filled
  noise = np.random.default_rng(1).random
  spoiled = observations.Observations(
    np.where(empty[:, None], noise((N, D)), table.x).astype(np.float32),
    np.where(empty, 2, table.rung).astype(np.int32),
    table.share,
    np.where(empty[:, None], 9.0, table.value).astype(np.float32),
    np.where(empty[:, None], 3.0, table.variance).astype(np.float32),
    table.filled,
  )
  one, other = PROCESS.fit(table), PROCESS.fit(spoiled)
  for a, b in zip(one.hyper, other.hyper, strict=True):
    np.testing.assert_array_equal(a, b)
  for a, b in zip(
    PROCESS.predict(asked(), one), PROCESS.predict(asked(), other), strict=True
  ):
    np.testing.assert_array_equal(a, b)
  small = PROCESS.condition(one.hyper, observations.table(draw(30), 30, D, 2))
  np.testing.assert_allclose(small.evidence, one.evidence, atol=0.01)


def test_rungs_covary_as_nested_means_do():
  """Of items that are drawn once, by simulation."""
  rng = np.random.default_rng(0)
  items = rng.normal(size=(40_000, 40))  # what is peculiar to each of 40 items
  means = np.stack(
    [
      items[:, :4].mean(1),  # half of the first rung
      items[:, :8].mean(1),  # the first rung
      items[:, 8:].mean(1),  # the second
      items.mean(1),
    ],
    1,
  )
  at = kernels.Points(
    jnp.zeros((4, 2)),
    jnp.asarray([0, 0, 1, kernels.EVERYTHING]),
    jnp.asarray([0.1, 0.2, 0.8, 1.0]),
    jnp.ones(4, bool),
  )
  kernel = kernels.Nested(jnp.asarray(1.0), jnp.asarray(1 / 40))
  found = np.asarray(kernel(at, at)) - 1
  np.testing.assert_allclose(found, np.cov(means.T), atol=0.006)
  np.testing.assert_allclose(kernel(at), np.diag(found) + 1, rtol=1e-5)
  pairs = [
    [
      kernel.evaluate(
        *(jax.tree.map(lambda leaf, i=i: leaf[i], at) for i in (a, b))
      )
      for a in range(4)
    ]
    for b in range(4)
  ]
  np.testing.assert_allclose(pairs, found + 1, rtol=1e-5)


def test_fit_nears_the_best_parameters():
  table = observations.table(draw(N), N, D, 2)
  long = surrogate.surrogate(SPACE, steps=300)
  one, best = PROCESS.fit(table), long.fit(table)
  first = PROCESS.condition(
    surrogate.Hyper(
      np.full(2, np.sqrt(2) + np.log(D) / 2, np.float32),
      *(np.float32(v) for v in (0, -3, -4)),
    ),
    table,
  )
  gained = best.evidence.sum() - first.evidence.sum()
  assert gained > 3
  assert best.evidence.sum() - one.evidence.sum() < 0.1 * gained


def test_slopes_of_the_fit_are_those_of_the_evidence():
  """One step of Adam goes up each parameter's numerical slope."""
  table = observations.table(draw(N), N, D, 2)
  one = surrogate.surrogate(SPACE, steps=1)
  moved = one.fit(table).hyper
  start = surrogate.Hyper(
    np.full(2, np.sqrt(2) + np.log(D) / 2, np.float32),
    *(np.float32(v) for v in (0, -3, -4)),
  )

  def evidence(hyper):
    return float(one.condition(hyper, table).evidence.sum())

  leaves, tree = jax.tree.flatten(start)
  flat, shapes = np.concatenate([np.ravel(v) for v in leaves]), [2, 1, 1, 1]

  def build(flat):
    parts = np.split(flat, np.cumsum(shapes)[:-1])
    shaped = [
      np.reshape(p, np.shape(v)) for p, v in zip(parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, shaped)

  step = np.concatenate([np.ravel(v) for v in jax.tree.leaves(moved)]) - flat
  for i in range(len(flat)):
    e = np.zeros_like(flat)
    e[i] = 0.05
    up = evidence(build(flat + e)) - evidence(build(flat - e))
    assert np.sign(up) == np.sign(step[i]) and abs(up) > 0.02, i


def quadratic(x):
  return -((x - 0.55) ** 2).sum(1) - 0.5 * (x.mean(1) - 0.6) ** 2 * len(x[0])


def test_cheap_rungs_improve_predictions_in_a_hundred_dimensions():
  rng = np.random.default_rng(3)
  space = problems.typed([0] * 100)
  process = surrogate.surrogate(space)
  tilt = rng.normal(size=100) / 30  # what is peculiar to the first rung

  def rows(count, rung, share):
    x = np.clip(rng.normal(0.5, 0.15, (count, 100)), 0, 1)
    y = quadratic(x) + (rung == 0) * (x @ tilt)
    variance = 0.001 / share
    y = y + rng.normal(size=count) * variance**0.5
    return [
      observations.Observation(one, rung, share, v[None], [variance], 0.0)
      for one, v in zip(x, y, strict=True)
    ]

  top, low = rows(25, 1, 0.8), rows(160, 0, 0.2)
  test = np.clip(rng.normal(0.5, 0.15, (300, 100)), 0, 1)
  wanted = quadratic(test)

  def quality(rows):
    fitted = process.fit(observations.table(rows, 192, 100, 1))
    mean, variance = process.predict(test, fitted)
    assert (np.asarray(variance) > 0).all()
    return np.corrcoef(mean[:, 0], wanted)[0, 1]

  alone, both = quality(top), quality(low + top)
  assert both > alone + 0.15 and both > 0.5, (alone, both)


def test_nothing_is_traced_again_as_data_grow():
  traces = []
  counted = SPACE._replace(
    active=lambda c: traces.append(0) or jnp.ones(D, bool)
  )
  process = surrogate.surrogate(counted, steps=3)
  for count in (0, 1, 7, 30, N, N + 20):
    fitted = process.fit(observations.table(draw(count), N, D, 2))
    mean, variance = process.predict(asked(), fitted)
    assert np.isfinite(mean).all() and np.isfinite(variance).all()
    if count == 0:
      before = len(traces)
      np.testing.assert_array_equal(mean, 0)
  assert len(traces) == before
  assert process.fit._cache_size() == process.predict._cache_size() == 1


def test_collapsed_candidates_do_not_hide_the_others():
  rows = draw(40, objectives=1)
  lost = [
    row._replace(value=np.array([-500.0]))
    for row in draw(3, seed=5, objectives=1)
  ]
  clean = PROCESS.fit(observations.table(rows, N, D, 1))
  both = PROCESS.fit(observations.table(rows + lost, N, D, 1))
  assert both.scale[0] < 3 * clean.scale[0]
  one, _ = PROCESS.predict(asked(60), clean)
  other, _ = PROCESS.predict(asked(60), both)
  assert np.corrcoef(one[:, 0], other[:, 0])[0, 1] > 0.7


def test_kinds_share_a_scale():
  space = problems.typed([0, 0, 0, 3, 2])._replace(
    names=('weight/a/0', 'density/a/0', 'weight/b/0', 'method/0', 'use/a')
  )
  kinds = surrogate.kinds(space)
  assert kinds[0] == kinds[2] != kinds[1] and kinds[3] == kinds[4]
  assert len(set(kinds)) == 3
  np.testing.assert_array_equal(
    surrogate.kinds(problems.typed([0] * 4)), np.zeros(4)
  )


def test_a_full_table_keeps_the_best_and_the_newest():
  rows = [
    observations.Observation(
      np.full(2, i / 20), 0, 1.0, np.zeros(1), np.ones(1), rank
    )
    for i, rank in enumerate([9, 9, 1, 8, 0, 1, 2, 1, 0, 1])
  ]
  table = observations.table(rows, 6, 2, 1)
  kept = np.round(table.x[:, 0] * 20).astype(int)
  np.testing.assert_array_equal(kept, [0, 1, 3, 7, 8, 9])
  assert table.filled.all()
  part = observations.table(rows[:4], 6, 2, 1)
  np.testing.assert_array_equal(part.filled, [1, 1, 1, 1, 0, 0])


@pytest.mark.parametrize('field', ['value', 'variance', 'share'])
def test_what_is_no_number_is_refused(field):
  (row,) = draw(1)
  wrong = 0.0 if field == 'share' else np.array([np.nan, 0.0])
  with pytest.raises(ValueError, match='expected finite'):
    observations.table([row._replace(**{field: wrong})], 4, D, 2)


def test_paired_differences_are_stratified():
  rng = np.random.default_rng(0)
  task = np.repeat([0, 1, 2], [30, 60, 20])
  score, incumbent = rng.integers(0, 2, (2, 110)).astype(float)
  score[[2, 40]] = np.nan  # a race did not get there
  weights = np.array([0.25, 0.75, 0.0])
  value, variance = observations.paired(score, incumbent, task, weights)
  a = (score - incumbent)[:30][~np.isnan(score[:30])]
  b = (score - incumbent)[30:90][~np.isnan(score[30:90])]
  assert value == pytest.approx(a.mean() / 4 + 0.75 * b.mean())
  error = a.var(ddof=1) / len(a) / 16 + b.var(ddof=1) / len(b) * 0.75**2
  assert variance == pytest.approx(error)
  score[31:90] = np.nan
  assert observations.paired(score, incumbent, task, weights) is None
