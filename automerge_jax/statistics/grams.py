"""Gram matrices Xᵀ X / tokens of the inputs of each linear layer.

Measured layer by layer, a chunk of items at a time: memory does not grow with
their number.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array, Family, Items, Params


def measure(
  family: Family, params: Params, buckets: Sequence[Items], total: int
) -> dict[str, np.ndarray]:
  """Gram matrices by stored name of the layer's weight, float32 [in, in].

  Layers that share an input, as query, key and value, have a matrix each.

  Args:
    family: whose linear layers are `nn.Dense` over [B, T, in].
    params: of the model.
    buckets: items by length, leaves [C, B, ...], with `mask` among the inputs;
      its zeros and padding items are left out.
    total: number of items.

  Raises:
    ValueError: if there is no token, or a linear layer sees no tokens.
  """
  stored = {(key.path, key.layer): key.stored for key in family.keys}
  step = _step(family)
  layers = [
    jax.tree.map(
      lambda leaf, i=i: leaf[i], (params['layers'], family.layer_info)
    )
    for i in range(family.num_layers)
  ]
  found: dict[str, np.ndarray] = {}
  tokens = 0.0
  for inputs, weight in _chunks(buckets, total):
    tokens += float(np.sum(weight, dtype=np.float64))
    carry, grams = step['stem'](params, inputs, weight)
    measured: list[tuple[int | None, Any]] = [(None, grams)]
    for i, layer in enumerate(layers):
      carry, grams = step['layers'](layer, carry, weight)
      measured.append((i, grams))
    measured.append((None, step['final'](params, carry, weight)[1]))
    for i, grams in measured:
      for path, gram in grams.items():
        held = found.setdefault(stored[path, i], np.zeros(gram.shape))
        held += np.asarray(gram)
  if not tokens:
    raise ValueError('Gram matrices need at least one token, got none')
  return {
    name: (gram / tokens).astype(np.float32) for name, gram in found.items()
  }


def _chunks(
  buckets: Sequence[Items], total: int
) -> Iterator[tuple[dict[str, Array], np.ndarray]]:
  """Inputs [B, T] and the weight of each token, 1 or 0, float32 [B, T]."""
  for bucket in buckets:
    for chunk in range(bucket.slot.shape[0]):
      inputs = {name: leaf[chunk] for name, leaf in bucket.inputs.items()}
      counts = np.asarray(bucket.slot[chunk] < total)[:, None]
      yield inputs, (counts & (np.asarray(inputs['mask']) > 0)).astype('f4')


def _step(family: Family) -> Mapping[str, Callable[..., tuple[Any, Any]]]:
  """The family's three functions, jitted, each with its Gram matrices."""

  def stem(params, inputs, weight):
    return _recorded('stem', weight, family.embed, params, inputs)

  def layer(layer, carry, weight):
    params, info = layer
    return _recorded('layers', weight, family.block, params, carry, info)

  def final(params, carry, weight):
    return _recorded('final', weight, family.head, params, carry)

  steps = {'stem': stem, 'layers': layer, 'final': final}
  return {name: jax.jit(function) for name, function in steps.items()}


def _recorded(
  prefix: str, weight: Array, function: Callable[..., Any], *arguments: Any
) -> tuple[Any, dict[str, Array]]:
  """The function's result, and Xᵀ X by path of each Dense that it calls."""
  found: dict[str, Array] = {}

  def record(call, args, kwargs, context):
    if isinstance(context.module, nn.Dense):
      path = '/'.join((prefix, *context.module.path, 'kernel'))
      x = args[0]
      if x.shape[:-1] != weight.shape:
        raise ValueError(
          f'linear layer {path!r} has inputs of shape {x.shape}; expected '
          f'{(*weight.shape, "d")}, one vector a token'
        )
      counted = x.astype(jnp.float32) * weight[..., None]
      gram = jnp.einsum('bti,btj->ij', counted, counted)
      found[path] = found[path] + gram if path in found else gram
    return call(*args, **kwargs)

  with nn.intercept_methods(record):
    result = function(*arguments)
  return result, found
