"""Diagonal Fisher information of a classifier, exactly, at its own parameters.

F = mean over inputs of Σ p(y | x) [∇ log p(y | x)]² over all classes y: squares
of single inputs' gradients, never of a batch's, and the model's own
probabilities in place of labels: https://arxiv.org/abs/2111.09832.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.models import base as models
from automerge_jax.tasks import classification
from automerge_jax.types import Array, Family, Items, Params

# `(params, head, inputs [B, T]) -> log-probabilities [B, C]`.
LogProbabilities = Callable[[Params, Any, Mapping[str, Array]], Array]


def classifier(family: Family) -> LogProbabilities:
  """Log-probabilities of an encoder; its head is (kernel [d, C], bias [C])."""

  def log_probabilities(params, head, inputs):
    kernel, bias = head
    hidden = models.forward(family, params, inputs)
    features = classification.pool(hidden, inputs['mask'])
    return jax.nn.log_softmax(features @ kernel + bias[None])

  return log_probabilities


def diagonal(
  log_probabilities: LogProbabilities,
  params: Params,
  head: Any,
  buckets: Sequence[Items],
  total: int,
) -> Params:
  """Fisher information of each parameter, float32 leaves like `params`.

  One input and one class at a time, so memory is a few times the parameters.

  Args:
    log_probabilities: of the classes.
    params: where the information is measured, and of what.
    head: handed to `log_probabilities`.
    buckets: items by length, leaves [C, B, ...]; padding is left out.
    total: number of items.

  Raises:
    ValueError: if there is no item.
  """
  if total < 1:
    raise ValueError('Fisher information needs at least one item, got none')
  found = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float64), params)
  for bucket in buckets:
    for chunk in range(bucket.slot.shape[0]):
      items = jax.tree.map(lambda leaf, i=chunk: leaf[i], bucket)
      sums = _sum_of_squares(
        log_probabilities, params, head, items.inputs, items.slot < total
      )
      for held, more in zip(
        jax.tree.leaves(found), jax.tree.leaves(sums), strict=True
      ):
        held += np.asarray(more)
  return jax.tree.map(lambda leaf: (leaf / total).astype(np.float32), found)


def norm(information: Mapping[str, np.ndarray]) -> float:
  """L2 norm over all tensors, accumulated in float64."""
  squares = (
    np.square(tensor, dtype=np.float64).sum() for tensor in information.values()
  )
  return float(np.sqrt(sum(squares)))


@functools.partial(jax.jit, static_argnums=0)
def _sum_of_squares(
  log_probabilities: LogProbabilities,
  params: Params,
  head: Any,
  inputs: Mapping[str, Array],
  valid: Array,
) -> Params:
  """Σ p (∇ log p)² over the valid inputs [B, T] and all classes."""

  def add_input(total, one):
    row, counts = one
    single = {name: leaf[None] for name, leaf in row.items()}
    values, pull = jax.vjp(
      lambda p: log_probabilities(p, head, single)[0], params
    )

    def add_class(total, cotangent):
      (gradient,) = pull(cotangent)
      return jax.tree.map(lambda t, g: t + g * g, total, gradient), None

    # With √p as cotangent the square of the gradient comes weighted with p.
    roots = jnp.exp(0.5 * values) * counts
    return jax.lax.scan(add_class, total, jnp.diag(roots))[0], None

  zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), params)
  return jax.lax.scan(add_input, zeros, (inputs, valid))[0]
