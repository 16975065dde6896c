"""What all families share: the forward pass as a scan, and key tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from automerge_jax import trees
from automerge_jax.types import Array, Family, Key, Params


def forward(
  family: Family, params: Params, inputs: Mapping[str, Array]
) -> Array:
  """Outputs of the model, e.g. hidden states [B, T, d].

  One scan over the stacked layers, so compile time does not grow with depth.
  """

  def step(carry, layer):
    layer_params, layer_info = layer
    return family.block(layer_params, carry, layer_info), None

  carry = family.embed(params, _encoded(family, params, inputs))
  carry, _ = jax.lax.scan(
    step, carry, (_layers(family, params), family.layer_info)
  )
  return family.head(params, carry)


def extend(
  family: Family, params: Params, inputs: Mapping[str, Array], memory: Any
) -> tuple[Array, Any]:
  """Outputs for new tokens [B, T, d] behind those in memory, and the memory.

  Args:
    family: one with `cache` and `step`.
    params: of the model.
    inputs: the new tokens; also `slot` [B, T], where in the memory each goes;
      one that is no slot leaves no trace.
    memory: what `family.cache` made, perhaps extended before: `layers` with
      leaves [L, B, ...], and what its slots hold.
  """
  carry = family.embed(params, dict(inputs, memory=memory))
  extend_layer = family.step
  assert extend_layer is not None

  def step(carry, layer):
    layer_params, layer_info, own = layer
    return extend_layer(layer_params, carry, layer_info, own)

  carry, layers = jax.lax.scan(
    step,
    carry,
    (_layers(family, params), family.layer_info, memory['layers']),
  )
  return family.head(params, carry), dict(carry['memory'], layers=layers)


def unstack(family: Family, params: Params) -> list[tuple[Params, Any]]:
  """Parameters and `layer_info` of each layer, in arrays of their own.

  A copy of the layers: for what reads them many times in one computation. A
  scan copies each layer out of its stack at every step, which no batch of one
  token a row pays for (CPU).
  """
  stack = _layers(family, params), family.layer_info
  count = len(jax.tree.leaves(stack)[0])
  return [jax.tree.map(lambda leaf, i=i: leaf[i], stack) for i in range(count)]


def extend_unstacked(
  family: Family,
  params: Params,
  layers: Sequence[tuple[Params, Any]],
  inputs: Mapping[str, Array],
  memory: Any,
) -> tuple[Array, Any]:
  """As `extend`, over `unstack`ed layers.

  Args:
    family: one with `cache` and `step`.
    params: of the model; its layers are not read.
    layers: what `unstack` made.
    inputs: as `extend` takes them.
    memory: with `layers` a sequence, one a layer, of leaves [B, ...].
  """
  carry = family.embed(params, dict(inputs, memory=memory))
  assert family.step is not None
  extended = []
  for (layer_params, layer_info), own in zip(
    layers, memory['layers'], strict=True
  ):
    carry, own = family.step(layer_params, carry, layer_info, own)
    extended.append(own)
  return family.head(params, carry), dict(
    carry['memory'], layers=tuple(extended)
  )


def _layers(family: Family, params: Params) -> Params:
  for part in family.stack.split('/'):
    params = params[part]
  return params


def _encoded(family, params, inputs):
  if family.encoder is None:
    return inputs
  return dict(inputs, encoded=forward(family.encoder, params, inputs))


def pack(
  keys: Sequence[Key], tensors: Mapping[str, np.ndarray], lead: int = 0
) -> Params:
  """Stored tensors -> leaves, with layers stacked.

  Args:
    keys: a family's key table.
    tensors: arrays by stored name, shaped as stored behind `lead` extra axes.
    lead: number of extra leading axes; with 1, stored [K, ...] becomes
      [K, L, ...].

  Returns:
    `Params` of numpy arrays.

  Raises:
    ValueError: if stored copies of one leaf differ.
  """
  return trees.unflatten(
    {
      path: _join(rows, [tensors[row.stored] for row in rows], lead)
      for path, rows in by_leaf(keys).items()
    }
  )


def unpack(keys: Sequence[Key], params: Params) -> dict[str, np.ndarray]:
  """Leaves -> stored tensors; the exact inverse of `pack` without K."""
  leaves = trees.flatten(params)
  tensors = {}
  for key in keys:
    leaf = np.asarray(leaves[key.path])
    tensor = leaf if key.layer is None else leaf[key.layer]
    tensors[key.stored] = np.asarray(
      tensor.swapaxes(-1, -2) if key.transpose else tensor, order='C'
    )
  return tensors


def by_leaf(keys: Sequence[Key]) -> dict[str, list[Key]]:
  """Rows of each leaf, in layer order."""
  rows: dict[str, list[Key]] = {}
  for key in keys:
    rows.setdefault(key.path, []).append(key)
  for path in rows:
    rows[path].sort(key=lambda row: row.layer or 0)
  return rows


def check_keys(family: Family, stored: Sequence[str]) -> None:
  """Raises ValueError unless table and checkpoint name the same tensors."""
  names = [key.stored for key in family.keys]
  doubled = sorted({name for name in names if names.count(name) > 1})
  missing = sorted(set(names) - set(stored))
  unmapped = sorted(set(stored) - set(names) - set(family.skip))
  if doubled or missing or unmapped:
    lines = [f'! {name} (mapped twice)' for name in doubled]
    lines += [f'- {name} (not in the checkpoint)' for name in missing]
    lines += [f'+ {name} (not in the key table)' for name in unmapped]
    raise ValueError(
      f'checkpoint does not fit model family {family.name!r} with '
      f'{family.num_layers} layers:' + trees.listing(lines)
    )


def _join(
  rows: Sequence[Key], tensors: Sequence[np.ndarray], lead: int
) -> np.ndarray:
  arrays = [
    t.swapaxes(-1, -2) if row.transpose else t
    for row, t in zip(rows, tensors, strict=True)
  ]
  if rows[0].layer is None:
    for row, array in zip(rows[1:], arrays[1:], strict=True):
      if not np.array_equal(array, arrays[0], equal_nan=True):
        raise ValueError(
          f'{row.stored} differs from {rows[0].stored}; the model ties them, '
          'so they must be equal: correct one, or leave it out'
        )
    return np.asarray(arrays[0], order='C')
  return np.stack(arrays, axis=lead)
