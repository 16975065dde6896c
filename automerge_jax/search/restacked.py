"""Finished models whose layers are stacked anew, in one compiled function."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from automerge_jax.merging import layers
from automerge_jax.merging.outputs import outputs
from automerge_jax.models import base as models
from automerge_jax.models import program
from automerge_jax.recipe import Recipe
from automerge_jax.search import evaluate, lower
from automerge_jax.types import Family, ItemScores, Key, LayerProgram, Params


class Restacked(NamedTuple):
  """A model of some depth in S positions."""

  params: Params
  program: LayerProgram


def scorer(family: Family, dtype: str) -> Callable[..., ItemScores]:
  """`(Restacked, heads, data, num_items) -> ItemScores [n]`, jitted."""

  def run(model: Restacked, heads, data, num_items):
    found = (
      program.family(family, model.program),
      lower.cast(model.params, dtype),
    )
    return evaluate.score(lambda part: found, heads, data, num_items)

  return jax.jit(run, static_argnums=3)


def keys(family: Family, depth: int) -> tuple[Key, ...]:
  """The key table of a model with another number of like layers."""
  if depth == family.num_layers:
    return family.keys
  outside = [key for key in family.keys if key.layer is None]
  first = [key for key in family.keys if key.layer == 0]
  return (
    *outside,
    *(
      key._replace(stored=layers.renumber(key.stored, i), layer=i)
      for i in range(depth)
      for key in first
    ),
  )


def depth(tensors: Mapping[str, Any]) -> int:
  """Number of layers of a checkpoint with one stack of layers."""
  found = [layers.layer_of(name) for name in tensors]
  return 1 + max(layer for layer in found if layer is not None)


def pack(
  family: Family,
  tensors: Mapping[str, np.ndarray],
  sources: Sequence[int] | None,
  positions: int,
) -> Restacked:
  """Stored tensors, padded to a number of positions.

  Args:
    family: of the models that it was stacked from.
    tensors: of the merged checkpoint.
    sources: source layer of each of its layers; None: all are in place.
    positions: S.

  Raises:
    ValueError: if it has more layers than there are positions.
  """
  count = depth(tensors)
  sources = range(count) if sources is None else sources
  if count > positions or len(sources) != count:
    raise ValueError(
      f'a model of {count} layers (of {len(sources)} sources) does not fit '
      f'{positions} positions'
    )
  params = models.pack(keys(family, count), tensors)
  layer = np.zeros(positions, np.int32)
  layer[:count] = sources

  def padded(leaf: np.ndarray) -> np.ndarray:
    return np.pad(leaf, [(0, positions - count), *[(0, 0)] * (leaf.ndim - 1)])

  return Restacked(
    dict(params, layers=jax.tree.map(padded, params['layers'])),
    LayerProgram(
      layer, np.ones(positions, np.float32), np.arange(positions) < count
    ),
  )


def sources(
  recipe: Recipe, layer_of: Mapping[str, int | None]
) -> tuple[int, ...]:
  """Source layer of each layer that a recipe makes.

  Args:
    recipe: whose models all hold the tensors `layer_of`.
    layer_of: stored names and their layers.
  """
  found: dict[int, int] = {}
  names = {model: list(layer_of) for model in recipe.models}
  for output in outputs(recipe, names):
    if output.layer is not None:
      source = layer_of[output.sources[0][1]]
      assert source is not None
      found.setdefault(output.layer, source)
  return tuple(found[i] for i in sorted(found))
