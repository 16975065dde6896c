"""A model in two parts: frozen layers below, adapters on the layers above.

The parts are the whole model: what the lower one leaves is all that the upper
one needs. Adapters are LoRA's (https://arxiv.org/abs/2106.09685) and stay
factors, so that no gradient of a whole kernel is formed. For families whose
carry has the hidden states at `x` and whose linear layers are `nn.Dense`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from automerge_jax import trees
from automerge_jax.types import Array, Family, Params


def layers_of(params: Params, which: slice) -> Params:
  """Some of the layers, leaves [n, ...]."""
  return jax.tree.map(lambda leaf: leaf[which], params['layers'])


def lower(
  family: Family, params: Params, inputs: Mapping[str, Array], first: int
) -> Array:
  """Hidden states [B, T, d] that layer `first` is given."""
  carry = family.embed(params, inputs)
  return _run(family, layers_of(params, slice(0, first)), carry, 0)['x']


def upper(
  family: Family,
  params: Params,
  inputs: Mapping[str, Array],
  hidden: Array,
  first: int,
  adapter: Params | None = None,
  scale: float = 0.0,
) -> Array:
  """Outputs of the model [B, T, d] from the hidden states before `first`.

  Args:
    family: of the model.
    params: stem, final, and of `layers` those from `first` on.
    inputs: as for the whole model.
    hidden: what `lower` gives.
    first: the first of these layers.
    adapter: `{module: {'a', 'b'}}` with the same leading axis, or None.
    scale: by which the adapter's product enters.
  """
  carry = dict(family.embed(params, inputs), x=hidden)
  carry = _run(family, params['layers'], carry, first, adapter or {}, scale)
  return family.head(params, carry)


def init_adapter(layers: Params, rank: int, seed: int) -> Params:
  """An adapter of every kernel that is the base as it begins: B is 0.

  Args:
    layers: leaves [n, ...] of the layers to adapt.
    rank: columns of A.
    seed: of A, uniform within 1 / sqrt(in) as PEFT draws it.
  """
  rng = np.random.default_rng(seed)
  adapter = {}
  for name, leaf in trees.flatten(layers).items():
    module, _, kind = name.rpartition('/')
    if kind == 'kernel':
      n, width, out = leaf.shape
      a = rng.uniform(-1, 1, (n, width, rank)) / math.sqrt(width)
      adapter[module] = {
        'a': a.astype(np.float32),
        'b': np.zeros((n, rank, out), np.float32),
      }
  return adapter


def merged(layers: Params, adapter: Params, scale: float) -> Params:
  """The layers with the adapter added: kernel + scale * A @ B."""
  leaves = trees.flatten(layers)
  for module, pair in adapter.items():
    name = f'{module}/kernel'
    leaves[name] = leaves[name] + scale * (pair['a'] @ pair['b'])
  return trees.unflatten(leaves)


def _run(
  family: Family,
  layers: Params,
  carry: Any,
  first: int,
  adapter: Params | None = None,
  scale: float = 0.0,
) -> Any:
  """The layers from `first` on, one after another."""
  count = jax.tree.leaves(layers)[0].shape[0]
  info = jax.tree.map(
    lambda leaf: leaf[first : first + count], family.layer_info
  )

  def step(carry, layer):
    params, own, pairs = layer
    with nn.intercept_methods(_adding(pairs, scale)):
      return family.block(params, carry, own), None

  return jax.lax.scan(step, carry, (layers, info, adapter or {}))[0]


def _adding(adapter: Params, scale: float) -> Callable[..., Any]:
  """Adds x @ A @ B to what the adapted modules make of x."""

  def call(method, arguments, keywords, context):
    outputs = method(*arguments, **keywords)
    pair = adapter.get('/'.join(context.module.path))
    if pair is None or context.method_name != '__call__':
      return outputs
    return outputs + scale * (arguments[0] @ pair['a'] @ pair['b'])

  return call
