"""Which proposals are worth a score: acquisitions of the surrogate."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr, logsumexp
from jax.scipy.stats import norm

from automerge_jax.search.surrogate import Fitted, Surrogate
from automerge_jax.types import Array, SearchSpace

_DARING = 1.0  # standard deviations of an upper confidence bound
_MARGIN = 0.1  # of the front's range, between it and the reference point
_NODES = 96  # of the quadrature

Keep = Callable[[Array, Array, Fitted], tuple[Array, Array]]


def ucb(mean: Array, std: Array, best: Array) -> Array:
  """Upper confidence bound."""
  del best
  return mean + _DARING * std


def ei(mean: Array, std: Array, best: Array) -> Array:
  """Expected improvement over `best`."""
  z = (mean - best) / std
  return std * (z * norm.cdf(z) + norm.pdf(z))


def log_ei(mean: Array, std: Array, best: Array) -> Array:
  """Logarithm of the expected improvement, exact far below `best` as well.

  As https://arxiv.org/abs/2310.20708: there phi(z) + z Phi(z) is written with
  the logarithm of Mills' ratio, and beyond that by its asymptotic series.
  """
  z = (mean - best) / std
  near = jnp.where(z > -1, z, -1.0)  # where nothing is cancelled
  plain = jnp.log(norm.pdf(near) + near * norm.cdf(near))
  middle = jnp.where((z > -15) & (z <= -1), z, -1.0)
  mills = jnp.exp(log_ndtr(middle) - norm.logpdf(middle))
  tail = norm.logpdf(middle) + jnp.log1p(middle * mills)
  far = jnp.where(z > -15, -15.0, z)
  # phi(z) / z^2 (1 - 3 / z^2 + 15 / z^4 - ...)
  square = far**2
  series = norm.logpdf(far) - 2 * jnp.log(-far)
  series += jnp.log1p(-3 / square + 15 / square**2)
  whole = jnp.where(z > -1, plain, jnp.where(z > -15, tail, series))
  return whole + jnp.log(std)


def log_ei_of_least(mean: Array, std: Array, best: Array) -> Array:
  """Logarithm of the expected improvement of min_m f_m over `best`.

  The f_m are independent normals, so it is the integral over t > best of
  prod_m P(f_m > t), which is a sum over points that are even in log(t - best).

  Args:
    mean, std: [M].
    best: [].
  """
  # In its tail the integrand falls within std^2 / (best - mean).
  least = (std / (1 + jnp.maximum(best - mean, 0) / std)).min()
  most = jnp.maximum((mean - best).min(), 0) + 8 * std.max()
  log_t = jnp.linspace(jnp.log(1e-4 * least), jnp.log(most), _NODES)
  t = best + jnp.exp(log_t)
  above = log_ndtr((mean[None] - t[:, None]) / std[None]).sum(-1)
  ends = np.zeros(_NODES, np.float32)
  ends[[0, -1]] = np.log(0.5)
  whole = logsumexp(above + log_t + ends) + jnp.log(log_t[1] - log_t[0])
  return jnp.logaddexp(whole, above[0] + log_t[0])  # what lies before the first


_ONE = {'ucb': ucb, 'ei': ei, 'log_ei': log_ei}


def keeper(
  surrogate: Surrogate, space: SearchSpace, count: int, name: str
) -> Keep:
  """Chooses `count` of the proposals; build once and reuse.

  Of one objective those of the highest acquisition. Of several, one after the
  other the best of a hypervolume scalarisation of random weights
  (https://arxiv.org/abs/2006.04655), min_m (y_m - reference_m) / weight_m, so
  that they spread over the front; the reference point lies a little behind the
  worst of the front as the process sees it. What is equal to an observed
  recipe, or to another proposal, is kept only where nothing else is left.

  Args:
    surrogate: of the space.
    space: what is searched.
    count: P.
    name: 'ucb', 'ei' or 'log_ei'.

  Returns:
    `(key, x [Q, D], fitted) -> (positions int32 [P], predicted [P, M])`, all
    positions different; predicted is the mean difference to the incumbent.
    Raises ValueError where Q < P.

  Raises:
    ValueError: for an unknown name.
  """
  if name not in _ONE:
    raise ValueError(f'acquisition {name!r}; expected one of {sorted(_ONE)}')

  def repeated(x: Array, fitted: Fitted) -> Array:
    """Which of x [Q, D] are no new recipes, bool [Q]."""
    grid = jax.vmap(lambda one: space.encode(space.quantise(one)))(x)
    grid = surrogate.features(grid)
    told = surrogate.features(fitted.rows.x)
    known = jax.vmap(lambda row: (row[None] == told).all(-1))(grid)
    same = jax.vmap(lambda row: (row[None] == grid).all(-1))(grid)
    earlier = same & jnp.asarray(np.tri(len(x), k=-1, dtype=bool))
    return (known & fitted.rows.filled[None]).any(-1) | earlier.any(-1)

  def keep(key: Array, x: Array, fitted: Fitted) -> tuple[Array, Array]:
    if len(x) < count:
      raise ValueError(f'{len(x)} proposals, expected at least {count}')
    mean, variance = surrogate.predict(x, fitted)
    old = repeated(x, fitted)
    if mean.shape[1] == 1:
      best = fitted.known.max()
      value = _ONE[name](mean[:, 0], jnp.sqrt(variance[:, 0]), best)
      positions = jnp.lexsort((-value, old))[:count]
    else:
      positions = _spread(key, mean, jnp.sqrt(variance), old, fitted)
    return positions.astype(jnp.int32), mean[positions]

  def _spread(key, mean: Array, std: Array, old: Array, fitted: Fitted):
    scale = fitted.scale[None]
    mean, std, known = mean / scale, std / scale, fitted.known / scale
    low, high = _front(known)
    reference = low - _MARGIN * (high - low)

    def one(taken: Array, key: Array):
      weight = jnp.abs(jax.random.normal(key, reference.shape))
      weight = jnp.maximum(weight / jnp.linalg.norm(weight), 1e-3)
      at = (mean - reference[None]) / weight[None]
      best = ((known - reference[None]) / weight[None]).min(-1).max()
      spread = std / weight[None]
      if name == 'ucb':
        value = ucb(at, spread, best).min(-1)
      else:  # the order of both is the same
        value = jax.vmap(log_ei_of_least, (0, 0, None))(at, spread, best)
      position = jnp.lexsort((-value, old, taken))[0]
      return taken.at[position].set(True), position

    keys = jax.random.split(key, count)
    return jax.lax.scan(one, jnp.zeros(len(mean), bool), keys)[1]

  return jax.jit(keep)


def _front(values: Array) -> tuple[Array, Array]:
  """Lowest and highest objectives [M] of the rows that none dominates."""
  better = (values[:, None] >= values[None]).all(-1)
  strictly = (values[:, None] > values[None]).any(-1)
  first = ~(better & strictly).any(0) & jnp.isfinite(values).all(-1)
  low = jnp.where(first[:, None], values, jnp.inf).min(0)
  high = jnp.where(first[:, None], values, -jnp.inf).max(0)
  some = first.any()
  return jnp.where(some, low, 0.0), jnp.where(some, high, 0.0)
