"""Log-probabilities of items' answers, as Fisher information wants them."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from automerge_jax.models import base as models
from automerge_jax.tasks import kinds, likelihood
from automerge_jax.types import Array, Family, Params


def log_probabilities(
  family: Family, params: Params, heads: Any, data: Any
) -> Array:
  """Of each answer, [m, C]; -inf where an item has fewer.

  Classes have theirs. Those of choices and texts are means over tokens, so
  that long answers count no more than short ones; probabilities of choices are
  the softmax of these means: https://arxiv.org/abs/2504.18992.

  Args:
    family: of the model.
    params: of the model.
    heads: stacked task heads.
    data: as `kinds.scores` takes it.
  """
  if not isinstance(data, likelihood.Data):
    found, _ = kinds.scores(family, params, heads, data, choices=True)
    assert found.choices is not None
    return found.choices
  count = data.divisor.size
  sums, _ = likelihood.read_out(family, params, data.packed, count)
  tokens = jnp.zeros(count).at[data.packed.owner].add(1.0, mode='drop')
  means = (sums / jnp.maximum(tokens, 1.0)).reshape(data.divisor.shape)
  return jnp.where(data.divisor > 0, means, -jnp.inf)


def resampled(
  family: Family, params: Params, data: likelihood.Data, key: Array
) -> likelihood.Data:
  """Texts whose scored tokens are drawn from the model, one a position.

  What stands before a position remains the given text, so that all are drawn
  in one forward pass.
  """
  packed = data.packed

  def chunk(given):
    one, key = given
    hidden = models.forward(family, params, one.inputs)
    states = hidden.reshape(-1, hidden.shape[-1])[one.read][one.target]
    assert family.logits is not None
    row = jax.eval_shape(family.logits, params, states[:1])

    def token(position):
      key, state = position
      return jax.random.categorical(key, family.logits(params, state[None])[0])

    keys = jax.random.split(key, len(states))
    size = max(1, likelihood.LOGITS // row.shape[-1])
    return jax.lax.map(token, (keys, states), batch_size=size)

  keys = jax.random.split(key, packed.token.shape[0])
  token = jax.lax.map(chunk, (packed, keys)).astype(packed.token.dtype)
  return dataclasses.replace(
    data, packed=dataclasses.replace(packed, token=token)
  )
