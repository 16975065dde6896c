"""What a recipe says of one tensor: its experts and its numbers."""

import dataclasses
import hashlib
import json
import operator
from collections.abc import Mapping
from typing import Any

from automerge_jax.merging import canonical, layers, registry, roles
from automerge_jax.merging.outputs import Output, outputs
from automerge_jax.recipes.document import Module, Recipe, Slice, applies

__all__ = ['Output', 'Resolved', 'effective_hash', 'outputs', 'resolve']


@dataclasses.dataclass(frozen=True)
class Resolved:
  """What happens to one tensor.

  Attributes:
    experts: the models that are merged, in order.
    base_model: the base, if any.
    parameters: `{name: value}`, a tuple [K] where it is per expert.
  """

  experts: tuple[str, ...]
  base_model: str | None
  parameters: Mapping[str, Any]


def resolve(
  recipe: Recipe, name: str, layer: int | None, num_layers: int
) -> Resolved:
  """The experts and numbers of one tensor, where all layers stay in place.

  Args:
    recipe: the recipe.
    name: stored name of the tensor.
    layer: its layer; None outside the layers.
    num_layers: L.

  Raises:
    ValueError: if a required parameter is stated nowhere for this tensor, or
      slices move layers.
  """
  if len(recipe.stacks) > 1:
    raise ValueError('a recipe of several modules has no single list of layers')
  (module,) = recipe.stacks
  part, depth = _slice_of(module, name, layer, num_layers)
  leaf = next((x for x in part.leaves if applies(x.filter, name)), None)
  if leaf is None:
    raise ValueError(
      f'no part of a slice takes the tensor {name!r}; end `parts` with one '
      'without `filter`'
    )
  method = registry.get(
    leaf.merge_method or recipe.merge_method, recipe.semantics
  )
  who = roles.roles(method, recipe, module, leaf)
  names = [name] * len(who.experts)
  values = roles.parameters(
    method,
    roles.levels(recipe, module, part, leaf),
    who,
    names,
    name,
    depth,
  )
  return Resolved(tuple(s.model for s in who.experts), who.base_model, values)


def effective_hash(
  recipe: Recipe, layer_of: Mapping[str, int | None], num_layers: int
) -> str:
  """Hash of what the recipe does to each tensor, however it is written.

  Layers may be moved, repeated and left out. Equal up to rounding counts as
  equal; types of numbers, such as `dtype`, do not count.

  Args:
    recipe: the recipe.
    layer_of: stored names and their layers (None outside the layers), the same
      in every model.
    num_layers: L.

  Raises:
    ValueError: if the recipe names layers that are not there, or a required
      parameter is stated nowhere.
  """
  names = tuple(layer_of)
  made = outputs(recipe, dict.fromkeys(recipe.models, names))
  text = json.dumps(sorted(canonical.forms(made, recipe.seed), key=_name))
  return hashlib.sha256(text.encode()).hexdigest()[:16]


_name = operator.itemgetter(0)


def _slice_of(
  module: Module, name: str, layer: int | None, num_layers: int
) -> tuple[Slice, float]:
  """The slice that makes a tensor, and the tensor's depth in it, 0 to 1."""
  spans = []
  for part in module.slices:
    own = {
      s.layers or (0, num_layers) for leaf in part.leaves for s in leaf.sources
    }
    if len(own) > 1:
      raise ValueError(f'a slice merges unlike layers {sorted(own)}')
    spans.append(own.pop())
  ends = [*[start for start, _ in spans][1:], num_layers]
  if spans[0][0] != 0 or [end for _, end in spans] != ends:
    raise ValueError(
      f'slices cover layers {spans} of {num_layers}; expected each layer once '
      'and in order'
    )
  if layer is None:  # before the layers: first slice; after them: last
    return module.slices[0 if layers.is_before(name) else -1], 0.0
  for part, (start, end) in zip(module.slices, spans, strict=True):
    if start <= layer < end:
      return part, roles.depth_of(layer - start, end - start)
  raise ValueError(f'no slice holds layer {layer} of tensor {name!r}')
