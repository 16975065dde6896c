"""Sums of squares of single examples' gradients, in one backward pass.

Behind `tapped` each leaf's gradient becomes its square where it arises, and a
`vmap` over examples adds these up there: the gradients of a layer are gone
before the next layer's are computed, and no model is kept for each example.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import custom_batching

from automerge_jax import trees
from automerge_jax.types import Array, Family, Params

_LAYERS = 'layers/'


@custom_batching.custom_vmap
def total(x: Array) -> Array:
  """`x`, in every enclosing `vmap` summed over its axis."""
  return x


@total.def_vmap
def _(axis_size: int, in_batched: list[bool], x: Array):
  del axis_size, in_batched  # without the axis this is not called
  return total(jnp.sum(x, 0)), False


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def _leaf(x: Array, dtype: Any) -> Array:
  return x.astype(dtype)


_leaf.defvjp(
  lambda x, dtype: (x.astype(dtype), None),
  lambda _, __, gradient: (total(jnp.square(gradient.astype(jnp.float32))),),
)


def tapped(
  family: Family, dtypes: Mapping[str, Any], kept: str | None = None
) -> tuple[Family, Callable[[Params], Params]]:
  """A family and its parameters, whose gradients are total squares.

  Every use of a leaf comes behind its tap, so each square is that of a whole
  gradient; layers have theirs inside, and are used once an example.

  Args:
    family: of the model.
    dtypes: of the leaves by name, as the model computes.
    kept: name of a leaf whose gradient remains what it is.

  Returns:
    The family, and a function from float32 parameters to what it takes.
  """

  def of_leaf(path: str, leaf: Array) -> Array:
    if path.startswith(_LAYERS):
      return leaf
    if path == kept:
      return leaf.astype(dtypes[path])
    return _leaf(leaf, dtypes[path])

  def tap(params: Params) -> Params:
    leaves = trees.flatten(params)
    return trees.unflatten({p: of_leaf(p, leaf) for p, leaf in leaves.items()})

  return _of_layers(family, dtypes), tap


def _of_layers(family: Family, dtypes: Mapping[str, Any]) -> Family:
  """The family with the leaves of each layer tapped where they are used."""

  def block(layer_params: Any, carry: Any, layer_info: Any) -> Any:
    leaves = trees.flatten(layer_params)
    own = {
      path: _leaf(leaf, dtypes[f'{family.stack}/{path}'])
      for path, leaf in leaves.items()
    }
    return family.block(trees.unflatten(own), carry, layer_info)

  encoder = family.encoder and _of_layers(family.encoder, dtypes)
  return dataclasses.replace(family, block=block, encoder=encoder)
