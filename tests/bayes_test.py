"""Bayesian optimisation against scikit-learn, numpy and scipy, and searches."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from automerge_jax import searching
from automerge_jax.search import baselines, refinement
from automerge_jax.search import job as jobs
from automerge_jax.search import process as processes
from automerge_jax.search import space as spaces
from automerge_jax.search.ledger import Ledger
from automerge_jax.search.optimizers import bayes
from automerge_jax.types import Told
from experiments.bench import problems
from tests import tiny_suite

GOLDEN = pathlib.Path(__file__).parent / 'testdata'
ROOM = 25  # rows, of all searches here, so that few are compiled


def told(x, scores, room=ROOM, values=None):
  """A table of as many rows as there is room for."""
  x, scores = np.asarray(x, np.float32), np.asarray(scores, np.float32)
  table = np.full((room, x.shape[1]), 0.5, np.float32)
  column = np.full(room, -np.inf, np.float32)
  table[: len(x)], column[: len(x)] = x, scores
  x = jnp.asarray(table)
  return Told(x, jnp.asarray(column), jnp.arange(1), x[:1], values)


def search(optimizer, space, score, seed, start=10, count=ROOM, population=1):
  """Coefficients [count, D] of a search that starts at random, and scores."""
  rng = np.random.default_rng(seed)
  quantise = jax.vmap(space.quantise)
  c = np.asarray(quantise(jnp.asarray(rng.random((start, len(space.names))))))
  key = jax.random.key(seed)
  state = optimizer.init(key, told(c, score(c)))
  while len(c) < count:
    x = optimizer.ask(jax.random.fold_in(key, len(c)), state)
    assert x.shape == (population, len(space.names)) and x.dtype == np.float32
    assert x.min() >= 0 and x.max() <= 1
    c = np.concatenate([c, quantise(x)])
    state = optimizer.tell(key, told(c, score(c)), state)
  return c, score(c)


def quadratic(c):
  return -((4 * (c - 0.37)) ** 2).sum(-1)


def plane(num_dims, decimals=3):
  return problems.typed([0] * num_dims, decimals=decimals)


def draw(count=20, num_dims=3, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.random((count, num_dims)).astype(np.float32)
  return x, (0.7 + np.sin(4 * x).mean(-1) / 9).astype(np.float32)


@functools.cache
def published(num_dims, acquisition='ei'):
  return bayes.bayes(1, plane(num_dims), acquisition)


def fit(x, y):
  """A process, its root and the likelihood; to be called in float64."""
  return _fit(told(wide(x), y, 64))


def wide(x):
  """Columns of zeros, which change no distance; so that few are compiled."""
  return np.pad(np.asarray(x), ((0, 0), (0, 6 - x.shape[1])))


@jax.jit
def _fit(table):
  process = processes.fitted(table)
  return process, processes.rooted(process), processes.likelihood(process)


def predict(x, process, root):
  return _predict(wide(x).astype(float), process, root)


_predict = jax.jit(processes.predict)


@pytest.mark.parametrize('acquisition', ['ei', 'ucb'])
def test_a_quadratic_is_maximised_in_25_evaluations(acquisition):
  optimizer = published(1, acquisition)
  for seed in range(3):
    c, scores = search(optimizer, plane(1), quadratic, seed)
    best = c[np.argmax(scores), 0]
    assert abs(best - 0.37) <= 0.004
    # Random points alone were further away.
    assert abs(c[:10, 0] - 0.37).min() > abs(best - 0.37)


def test_searches_are_exact_by_seed():
  optimizer, again = published(2), bayes.bayes(1, plane(2))
  one, _ = search(optimizer, plane(2), quadratic, 3, count=14)
  same, _ = search(again, plane(2), quadratic, 3, count=14)
  np.testing.assert_array_equal(one, same)
  other, _ = search(optimizer, plane(2), quadratic, 4, count=11)
  assert not np.array_equal(one[10], other[10])


def matern(one, other, length):
  """Matern 5/2, pair by pair."""
  r = np.linalg.norm(one[:, None] - other[None], axis=-1) / length
  return (1 + 5**0.5 * r + 5 * r**2 / 3) * np.exp(-(5**0.5) * r)


def test_posterior_is_that_of_plain_linear_algebra():
  x, y = draw()
  asked = np.random.default_rng(1).random((9, 3))
  with jax.enable_x64(True):
    process, root, evidence = fit(x, y)
    mean, std = predict(asked, process, root)
  x, y, length = x.astype(float), y.astype(float), float(process.length)
  assert 0.1 < length < 10
  covariance = matern(x, x, length) + 1e-6 * np.eye(len(x))
  normal = (y - y.mean()) / y.std()
  cross = matern(asked, x, length)
  want = y.mean() + y.std() * cross @ np.linalg.solve(covariance, normal)
  gone = np.einsum('qn,nq->q', cross, np.linalg.solve(covariance, cross.T))
  np.testing.assert_allclose(mean, want, atol=1e-7)
  np.testing.assert_allclose(std, y.std() * np.sqrt(1 - gone), rtol=1e-3)
  there = scipy.stats.multivariate_normal(np.zeros(len(x)), covariance)
  np.testing.assert_allclose(evidence, there.logpdf(normal), atol=1e-4)


def test_fits_are_scikit_learns_or_more_likely():
  equal = 0
  with (
    np.load(GOLDEN / 'bayes_scikit_learn_1.9.1.npz') as file,
    jax.enable_x64(True),
  ):
    for i in range(7):
      x, y = file[f'x{i}'], file[f'y{i}']
      process, root, evidence = fit(x, y)
      assert evidence > file[f'evidence{i}'] - 1e-3
      if evidence > file[f'evidence{i}'] + 1e-3:
        continue  # its local searches ended elsewhere
      equal += 1
      scale = y.std() or 1.0
      mean, std = predict(file[f'asked{i}'], process, root)
      np.testing.assert_allclose(process.length, file[f'length{i}'], rtol=1e-3)
      np.testing.assert_allclose(mean, file[f'mean{i}'], atol=1e-3 * scale)
      np.testing.assert_allclose(std, file[f'std{i}'], rtol=1e-3)
  assert equal == 6


def test_length_scale_is_the_maximum_of_the_likelihood():
  x, y = draw(seed=4)
  with jax.enable_x64(True):
    process, *_ = fit(x, y)
    likelihood = jax.jit(processes.likelihood)

    def loss(log):
      there = process._replace(length=jnp.asarray(10.0**log))
      return -float(likelihood(there))

    ends = (-1.0, 1.0)
    found = scipy.optimize.minimize_scalar(loss, bounds=ends, method='bounded')
    assert loss(np.log10(float(process.length))) <= found.fun + 1e-6
    assert abs(np.log10(float(process.length)) - found.x) < 1e-3
    assert found.fun < min(loss(-5.0), loss(5.0)) - 1  # not flat


def test_acquisitions_are_their_closed_forms():
  mean, std = np.array([0.6, 0.7, 0.72]), np.array([0.1, 0.02, 1e-3])
  with jax.enable_x64(True):
    found = bayes.ei(mean, std, np.array(0.69))
    bound = bayes.ucb(mean, std, np.array(0.69))
  for m, s, value in zip(mean, std, found, strict=True):
    # E max(y - best - 0.01, 0), by quadrature.
    y = np.linspace(0.70, m + 9 * s, 400_001)
    want = np.trapezoid((y - 0.70) * scipy.stats.norm.pdf(y, m, s), y)
    np.testing.assert_allclose(value, want, rtol=1e-6)
  np.testing.assert_allclose(bound, mean + 2.576 * std, rtol=1e-12)


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_refinement_ends_where_l_bfgs_b_does(seed):
  """Or higher, on the acquisition of a process, also at edges."""
  x, y = draw(15, 6, seed)
  with jax.enable_x64(True):
    process, root, _ = fit(x, y)
    args = process, root, float(y.max())
    start = np.random.default_rng(seed).random((2_000, 6))
    start = start[np.argsort(-np.asarray(improvement(start, *args)))[:4]]
    climbed, values = refined(start, *args)
    np.testing.assert_allclose(values, improvement(climbed, *args), rtol=1e-9)
    before = np.asarray(improvement(start, *args))

    def loss(x):
      value, slope = uphill(x, *args)
      return -np.asarray(value) / before[0], -np.asarray(slope) / before[0]

    bounds = [(0, 1)] * 6
    theirs = [
      -before[0] * scipy.optimize.minimize(loss, x, jac=True, bounds=bounds).fun
      for x in start
    ]
  climbed, values = np.asarray(climbed), np.asarray(values)
  assert (values >= before).all() and values.max() > before.max()
  assert climbed.min() >= 0 and climbed.max() <= 1
  assert values.max() >= max(theirs) * (1 - 1e-4)


@jax.jit
def improvement(x, process, root, best):
  return bayes.ei(*processes.predict(x, process, root), best)


@jax.jit
def uphill(x, *args):
  return jax.value_and_grad(lambda x: improvement(x[None], *args)[0])(x)


@jax.jit
def refined(x, *args):
  return refinement.refined(lambda x: improvement(x, *args), x)


@pytest.mark.parametrize('acquisition', ['ei', 'ucb'])
def test_proposal_is_better_than_all_samples(acquisition):
  x, y = draw(15, 1)
  table = told(x, y)
  optimizer = published(1, acquisition)
  x = optimizer.ask(jax.random.key(0), optimizer.init(None, table))
  with jax.enable_x64(True):
    process, root, _ = fit(*draw(15, 1))

    def value(x):
      mean, std = predict(x, process, root)
      if acquisition == 'ei':
        return bayes.ei(mean, std, y.max())
      return bayes.ucb(mean, std, None)

    everywhere = np.linspace(0, 1, bayes.SAMPLES)[:, None]
    most = value(everywhere).max()
    least = value(everywhere).min()
    # float32 is what a proposal is given in.
    assert value(x)[0] >= most - 1e-6 * (most - least)


def test_what_was_told_is_not_proposed_again():
  space = plane(1, decimals=1)  # eleven recipes
  optimizer = bayes.bayes(1, space)

  def score(c):
    return -np.abs(c[:, 0] - 0.6)

  c, _ = search(optimizer, space, score, 0, start=3, count=11)
  first = len(np.unique(np.round(c[:3], 1)))
  assert len(np.unique(np.round(c, 1))) == first + 8
  # With nothing new left it still proposes.
  whole = np.linspace(0, 1, 11)[:, None]
  state = optimizer.init(None, told(whole, score(whole)))
  assert np.isfinite(optimizer.ask(jax.random.key(0), state)).all()


def test_a_population_believes_in_its_own_predictions(monkeypatch):
  traces = []
  plain = processes.matern
  monkeypatch.setattr(
    processes, 'matern', lambda square: traces.append(0) or plain(square)
  )
  optimizer = bayes.bayes(3, plane(2))
  state = optimizer.init(None, told(*draw(10, 2)))
  key = jax.random.key(0)
  first = optimizer.ask(key, state)
  seen = len(traces)
  c, scores = search(
    optimizer, plane(2), quadratic, 1, start=10, count=25, population=3
  )
  assert seen and len(traces) == seen  # a population is traced once
  assert len(np.unique(np.round(c, 3), axis=0)) == 25
  assert scores.max() > -0.05 and scores[:10].max() < scores.max()
  # The second is the best there is once the prediction of the first is told.
  x, y = draw(10, 2)
  one, two = np.round(np.asarray(first[:1]), 3), np.asarray(first[1:2])
  with jax.enable_x64(True):
    process, root, _ = fit(x, y)
    mean, _ = predict(one, process, root)
    process = process._replace(
      x=process.x.at[10].set(wide(one)[0]),
      y=process.y.at[10].set((mean[0] - process.shift) / process.scale),
      filled=process.filled.at[10].set(True),
    )
    root, best = processes.rooted(process), max(y.max(), float(mean[0]))
    axis = np.linspace(0, 1, 100)
    everywhere = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    values = bayes.ei(*predict(everywhere, process, root), best)
    found = bayes.ei(*predict(two, process, root), best)[0]
    assert found >= values.max() * (1 - 1e-4) > 10 * np.median(values)
  assert np.abs(one - two).max() > 0.02


def test_everything_is_traced_once(monkeypatch):
  traces = []
  plain = processes.matern
  monkeypatch.setattr(
    processes, 'matern', lambda square: traces.append(0) or plain(square)
  )
  optimizer = bayes.bayes(1, plane(2))
  seen = []
  for filled in (0, 1, 6, 20):
    x, y = draw(filled, 2)
    optimizer.ask(jax.random.key(filled), told(x, y))
    seen.append(len(traces))
  assert seen[0] and seen == seen[:1] * 4


def test_rows_that_failed_or_hold_nothing_do_not_count():
  x, y = draw(12, 2)
  optimizer = published(2)
  key = jax.random.key(0)
  plain = optimizer.ask(key, told(x, y))
  bad = np.random.default_rng(3).random((4, 2))
  failed = told([*x, *bad], [*y, *[-np.inf] * 4])
  np.testing.assert_allclose(optimizer.ask(key, failed), plain, atol=1e-5)
  # A failed row has a rank, but no value of its own.
  values = jnp.asarray([*y, *[np.nan] * (ROOM - 12)], jnp.float32)
  ranked = told([*x, *bad], [*range(4, 16), 3, 2, 1, 0], values=values)
  np.testing.assert_allclose(optimizer.ask(key, ranked), plain, atol=1e-5)
  nothing = told(x[:0], y[:0])
  found = optimizer.ask(key, nothing)
  assert found.shape == (1, 2) and np.isfinite(found).all()


def test_what_it_cannot_do_is_an_error(tiny):
  with pytest.raises(ValueError, match=r"acquisition 'log_ei'.*'ucb'"):
    bayes.bayes(1, plane(2), 'log_ei')
  with pytest.raises(ValueError, match='1 of 3 dimensions are categories'):
    bayes.bayes(1, problems.typed([0, 3, 0]))
  cases = (
    ({'optimizer': 'bayes', 'acquisition': 'log_ei'}, "'log_ei'.*'ucb'"),
    ({'explore_design': 'sobol'}, "explore_design is 'sobol'"),
    ({'hand_made_starts': False}, 'explore is 0 .*at least 1'),
  )
  for changes, message in cases:
    with pytest.raises(ValueError, match=message):
      tiny_suite.settings(tiny, **changes)
  tiny_suite.settings(tiny, acquisition='log_ei', explore_design='uniform')


def test_the_published_protocol_on_models(tiny, tmp_path, monkeypatch):
  settings = tiny_suite.settings(
    tiny,
    space='modelwise',
    method='task_arithmetic',
    objective='accuracy',
    optimizer='bayes',
    acquisition='ei',
    hand_made_starts=False,
    explore=4,
    explore_design='uniform',
    population=1,
    candidates=7,
    rungs=(16,),
    promote=(),
    gradient_steps=0,
  )
  seen = []

  def watched(*args, **kwargs):
    made = bayes_of(*args, **kwargs)
    return made._replace(ask=lambda key, t: seen.append(t) or made.ask(key, t))

  bayes_of = bayes.bayes
  monkeypatch.setattr(bayes, 'bayes', watched)
  job = jobs.load(settings)
  space = spaces.build(settings, job.family, job.experts, 'base')
  with Ledger(tmp_path / 'ledger.sqlite') as ledger:
    outcome = searching.search(settings, job, space, ledger, tmp_path)
  origins = [row.candidate.origin for row in outcome.scored]
  assert origins == [baselines.EXPLORE] * 4 + ['search'] * 3
  for i, table in enumerate(seen):
    want = np.full(len(table.x), np.nan)
    want[: 4 + i] = [row.values[0] for row in outcome.scored[: 4 + i]]
    np.testing.assert_allclose(table.values, want, rtol=1e-6)
  assert len(seen) == 3 and np.nanstd(want) > 0
  first = [row.candidate.coefficients for row in outcome.scored[:4]]
  drawn = baselines.explored(space, 4, 0, 'uniform')
  np.testing.assert_array_equal(first, [c for _, c in drawn])
  latin = baselines.explored(space, 4, 0)
  assert not np.array_equal(first, [c for _, c in latin])


def test_uniform_designs_are_independent():
  space = plane(2, decimals=5)
  c = np.stack([c for _, c in baselines.explored(space, 400, 1, 'uniform')])
  # A Latin hypercube has one point in each of 400 parts.
  parts = len(np.unique(np.floor(400 * c[:, 0])))
  assert abs(parts / 400 - (1 - np.exp(-1))) < 0.06
  assert scipy.stats.kstest(c.ravel(), 'uniform').pvalue > 0.01
