"""Points of a typed space as numbers that a model can learn from."""

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array, SearchSpace

_CONSTANT = 0.5  # of a float that changes nothing


class Features:
  """Floats as they are, categories one-hot; what is inactive is constant.

  Attributes:
    categorical: which dimensions are, bool [D].
    width: number of options, 1 for floats, [D].
  """

  def __init__(self, space: SearchSpace):
    num_dims = len(space.names)
    choices = np.zeros(num_dims, int)
    if space.choices is not None:
      choices = np.asarray(space.choices)
    self.categorical = choices > 0
    self.width = np.maximum(choices, 1)
    self._space = space
    self._owner = np.repeat(np.arange(num_dims), self.width)
    firsts = np.cumsum(self.width) - self.width
    self._option = np.arange(len(self._owner)) - firsts[self._owner]

  def __call__(self, x: Array) -> Array:
    """Features of x [N, D], [N, E]."""
    active = self.active(x)[:, self._owner]
    values = x[:, self._owner]
    index = jnp.clip(jnp.floor(x * self.width[None]), 0, self.width[None] - 1)[
      :, self._owner
    ]
    # Two different options are as far apart as the ends of a float.
    hot = jnp.where(index == self._option[None], 0.5**0.5, 0.0)
    return jnp.where(
      self.categorical[self._owner][None],
      jnp.where(active, hot, 0.0),
      jnp.where(active, values, _CONSTANT),
    )

  def active(self, x: Array) -> Array:
    """Which dimensions of x [N, D] change the recipe, bool [N, D]."""
    if self._space.active is None:
      return jnp.ones(x.shape, bool)
    return jax.vmap(self._space.active)(jax.vmap(self._space.quantise)(x))

  def spread(self, scale: Array) -> Array:
    """Values of dimensions [D] as values of features [E]."""
    return scale[self._owner]

  def options(self, key: Array, shape: tuple[int, ...]) -> Array:
    """Independent options of every dimension, as centres of bins; [N, D]."""
    index = jnp.floor(jax.random.uniform(key, shape) * self.width[None])
    return (index + 0.5) / self.width[None]

  def random(self, key: Array, count: int) -> Array:
    """Uniform points, [count, D]."""
    return jax.random.uniform(key, (count, len(self.width)))
