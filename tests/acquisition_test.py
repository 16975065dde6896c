"""Acquisitions: against quadrature and simulation, in the tail, and choices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats

from automerge_jax.search import acquisition, observations, surrogate
from experiments.bench import problems

SPACE = problems.typed([0, 0, 3])
PROCESS = surrogate.surrogate(SPACE, steps=5)


@pytest.mark.parametrize('z', [-6.0, -3.0, -1.01, -0.99, 0.0, 0.7, 4.0])
def test_expected_improvement_is_the_integral(z):
  mean, std, best = 0.3 + 0.2 * z, 0.2, 0.3

  def gain(y):
    return (y - best) * stats.norm.pdf(y, mean, std)

  wanted = integrate.quad(gain, best, max(mean, best) + 10 * std, epsabs=0)[0]
  given = (np.float32(v) for v in (mean, std, best))
  given = list(given)
  np.testing.assert_allclose(
    acquisition.log_ei(*given), np.log(wanted), atol=3e-3, rtol=1e-4
  )
  if z > -3:
    np.testing.assert_allclose(acquisition.ei(*given), wanted, rtol=2e-3)
  assert acquisition.ucb(*given) == pytest.approx(mean + std)


@pytest.mark.parametrize('z', [-1.0, -2.0, -8.0, -14.9, -15.1, -40.0, -1e3])
def test_log_expected_improvement_far_below_has_value_and_slope(z):
  """log(phi(z) + z Phi(z)), whose slope is Phi(z) / (phi(z) + z Phi(z))."""
  value, slope = jax.value_and_grad(acquisition.log_ei)(
    jnp.float32(z), jnp.float32(1), jnp.float32(0)
  )
  # By parts it is the integral over s > 0 of s phi(s - z).
  scale = 1 / max(-z, 1.0)

  def integrand(u, power):
    s = u * scale
    return s**power * np.exp(z * s - s * s / 2) * scale

  first = integrate.quad(integrand, 0, 60, (1,))[0]
  none = integrate.quad(integrand, 0, 60, (0,))[0]
  wanted = stats.norm.logpdf(z) + np.log(first)
  np.testing.assert_allclose(value, wanted, rtol=2e-5, atol=2e-3)
  np.testing.assert_allclose(slope, none / first, rtol=0.02)


def test_improvement_of_the_least_is_the_simulated_one():
  rng = np.random.default_rng(0)
  mean, std = np.array([0.3, 0.5, 0.1]), np.array([0.2, 0.1, 0.4])
  sample = rng.normal(mean, std, (400_000, 3)).min(1)
  for best in (-0.5, 0.1, 0.35):
    found = acquisition.log_ei_of_least(
      jnp.asarray(mean), jnp.asarray(std), jnp.asarray(best)
    )
    wanted = np.maximum(sample - best, 0).mean()
    np.testing.assert_allclose(np.exp(found), wanted, rtol=0.02)
  z = jnp.asarray([-30.0, -5.0, 0.0, 3.0])
  one = jax.vmap(acquisition.log_ei_of_least, (0, 0, None))(
    z[:, None], jnp.ones((4, 1)), jnp.asarray(0.0)
  )
  alone = acquisition.log_ei(z, jnp.ones(4), jnp.zeros(()))
  np.testing.assert_allclose(one, alone, atol=0.02)


def fitted(objectives, count=20):
  rng = np.random.default_rng(1)
  x = rng.random((count, 3)).astype(np.float32)
  x[:, 2] = (np.floor(3 * x[:, 2]) + 0.5) / 3
  value = np.stack([x[:, 0], 1 - x[:, 0] ** 2, x[:, 1]], 1)[:, :objectives]
  rows = [
    observations.Observation(a, 0, 1.0, b, np.full(objectives, 1e-4), b.sum())
    for a, b in zip(x, value, strict=True)
  ]
  return PROCESS.fit(observations.table(rows, 24, 3, objectives)), x


@pytest.mark.parametrize('name', ['ucb', 'ei', 'log_ei'])
def test_the_best_of_one_objective_are_kept(name):
  process, told = fitted(1)
  keep = acquisition.keeper(PROCESS, SPACE, 6, name)
  x = np.random.default_rng(2).random((40, 3)).astype(np.float32)
  x[7] = told[process.known[: len(told), 0].argmax()]  # a recipe that is known
  x[30] = x[x[:, 0].argmax()]
  positions, predicted = keep(jax.random.key(0), x, process)
  positions = np.asarray(positions)
  assert len(set(positions.tolist())) == 6 and 7 not in positions
  assert len(np.unique(x[positions], axis=0)) == 6
  mean, variance = PROCESS.predict(x, process)
  np.testing.assert_array_equal(predicted, mean[positions])
  assert mean[positions, 0].mean() > np.quantile(mean, 0.8)
  function = {'ucb': acquisition.ucb, 'ei': acquisition.ei}.get(
    name, acquisition.log_ei
  )
  value = function(mean[:, 0], np.sqrt(variance[:, 0]), process.known.max())
  rest = np.setdiff1d(np.arange(40), [*positions, 7, 30, x[:, 0].argmax()])
  assert value[positions].min() >= value[rest].max()


@pytest.mark.parametrize('name', ['ucb', 'ei', 'log_ei'])
def test_several_objectives_keep_a_spread_of_the_front(name):
  process, _ = fitted(2)
  keep = acquisition.keeper(PROCESS, SPACE, 8, name)
  x = np.random.default_rng(2).random((64, 3)).astype(np.float32)
  found = [
    np.asarray(keep(jax.random.key(i), x, process)[0]) for i in (0, 0, 1)
  ]
  np.testing.assert_array_equal(found[0], found[1])
  assert set(found[0].tolist()) != set(found[2].tolist())
  mean, _ = PROCESS.predict(x, process)
  for positions in found:
    assert len(set(positions.tolist())) == 8
    first, second = np.asarray(mean)[positions].T
    assert np.ptp(first) > 0.5 * np.ptp(mean[:, 0])
    assert np.corrcoef(first, second)[0, 1] < -0.7


def test_without_observations_and_with_repeats_alone_there_are_still_enough():
  process = PROCESS.fit(observations.table([], 24, 3, 2))
  keep = acquisition.keeper(PROCESS, SPACE, 4, 'log_ei')
  x = np.full((6, 3), 0.5, np.float32)
  positions, predicted = keep(jax.random.key(0), x, process)
  assert len(set(np.asarray(positions).tolist())) == 4
  assert np.isfinite(predicted).all()


def test_what_cannot_be_chosen_is_refused():
  with pytest.raises(ValueError, match=r"'pi'.*log_ei"):
    acquisition.keeper(PROCESS, SPACE, 4, 'pi')
  process, _ = fitted(1)
  keep = acquisition.keeper(PROCESS, SPACE, 4, 'ucb')
  with pytest.raises(ValueError, match='3 proposals'):
    keep(jax.random.key(0), np.zeros((3, 3), np.float32), process)
