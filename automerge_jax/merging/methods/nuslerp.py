"""Spherical interpolation of two models or of their task vectors (NuSLERP).

mergekit 0.1.5's method of that name. With a base it turns task vectors and adds
the base again. Its names are followed though they mislead: without
`nuslerp_flatten`, each row of a stored (out, in) matrix turns by an angle of
its own, with `nuslerp_row_wise` each column (angles along the first axis).
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging.facts import gram, inner
from automerge_jax.merging.methods import linear
from automerge_jax.types import Array, Fact, MergeMethod, Parameter, Stored

_SHORTEST = 1e-7  # norms count as at least this
_PARALLEL = 1e-8  # below this sine the arc is a straight line
_OPPOSITE = 1e-4  # likewise, of vectors that point away from each other


def merge(
  coefficients: Mapping[str, Array],
  facts: Mapping[str, Array],
  base: Array,
  stack: Array,
) -> Array:
  """θ₀ + [sin((1-t)ω) v₀ + sin(tω) v₁] / sin ω with t = w₁ / (w₀ + w₁).

  t is ½ where the weights sum to less than 1e-6. Parallel vectors are mixed
  linearly, and so are opposite ones: there no arc is the shortest, and
  mergekit's float32 returns amplified rounding where it does not see them as
  exactly opposite.
  """
  weight = coefficients['weight']
  total = weight[0] + weight[1]
  none = jnp.abs(total) < 1e-6
  t = jnp.where(none, 0.5, weight[1] / jnp.where(none, 1.0, total))
  angle, sine = facts['arc'][0], facts['arc'][1]
  straight = sine == 0
  safe = jnp.where(straight, 1.0, sine)
  first = jnp.where(straight, 1.0 - t, jnp.sin((1.0 - t) * angle) / safe)
  second = jnp.where(straight, t, jnp.sin(t * angle) / safe)
  # Computed apart from the sum, or compilations differ in the last bit.
  first, second = jax.lax.optimization_barrier((first, second))
  first, second = (linear.spread(f, base) for f in (first, second))
  return base + (first * stack[0] + second * stack[1])


def _arc(stored: Stored, _: Mapping[str, np.ndarray]) -> np.ndarray:
  """Angles and their sines, 0 where straight: float32 [2, ...], broadcast."""
  first, second = stored.stack
  if stored.settings['nuslerp_flatten'] or first.ndim < 2:
    products = gram(stored.stack)
    aa, ab, bb = products[0, 0], products[0, 1], products[1, 1]
    shape = (1,) * first.ndim
  else:
    axis = 0 if stored.settings['nuslerp_row_wise'] else -1
    aa = inner(first, first, axis)
    ab = inner(first, second, axis)
    bb = inner(second, second, axis)
    shape = aa.shape
  norms = np.maximum(np.sqrt(aa), _SHORTEST)
  norms = norms * np.maximum(np.sqrt(bb), _SHORTEST)
  cosine = np.clip(ab / norms, -1.0, 1.0)
  angle = np.arccos(cosine)
  sine = np.sin(angle)
  sine = np.where(sine < np.where(cosine < 0, _OPPOSITE, _PARALLEL), 0, sine)
  return np.stack([np.reshape(x, shape) for x in (angle, sine)]).astype('f4')


METHODS = (
  MergeMethod(
    name='nuslerp',
    merge=merge,
    parameters=(
      Parameter('weight', None, True, 0.0, 1.0),
      Parameter('nuslerp_row_wise', 0.0, False, setting=True),
      Parameter('nuslerp_flatten', 1.0, False, setting=True),
    ),
    stack='either',
    facts=(Fact('arc', _arc),),
    sources=(2, 2),
  ),
)
