"""What a recipe says of one tensor: its experts and its numbers."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from automerge_jax.merging import registry
from automerge_jax.recipe import Recipe, Setting, Slice


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
  """The experts and numbers of one tensor.

  Args:
    recipe: the recipe.
    name: stored name of the tensor.
    layer: its layer; None outside the layers.
    num_layers: L.

  Raises:
    ValueError: if a required parameter is stated nowhere for this tensor.
  """
  method = registry.get(recipe.merge_method)
  part, depth = _slice_of(recipe, name, layer, num_layers)
  base = part.base_model or recipe.base_model
  excluded = base if method.stack == 'deltas' else None
  sources = [s for s in part.sources if s.model != excluded]
  if method.name == 'slerp':  # from the base to the other
    sources.sort(key=lambda source: source.model != base)
  values: dict[str, Any] = {}
  for parameter in method.parameters:
    shared = (part.parameters, recipe.parameters)
    if parameter.per_expert:
      found = [
        _first(parameter, (s.parameters, *shared), name, depth) for s in sources
      ]
      missing = [
        s.model for s, v in zip(sources, found, strict=True) if v is None
      ]
      values[parameter.name] = tuple(found)
    else:
      found = _first(parameter, shared, name, depth)
      missing = [] if found is not None else ['the recipe']
      values[parameter.name] = found
    if missing:
      raise ValueError(
        f'parameter {parameter.name!r} of {method.name} is not stated for '
        f'tensor {name!r} of {missing[0]}; add it under `parameters`, or end '
        'its list with a `value` without `filter`'
      )
  return Resolved(tuple(s.model for s in sources), base, values)


def effective_hash(
  recipe: Recipe, layer_of: Mapping[str, int | None], num_layers: int
) -> str:
  """Hash of what the recipe does to each tensor, however it is written.

  Args:
    recipe: the recipe.
    layer_of: stored names and their layers (None outside the layers).
    num_layers: L.
  """
  effect = [
    (name, *dataclasses.astuple(resolve(recipe, name, layer, num_layers)))
    for name, layer in sorted(layer_of.items())
  ]
  text = json.dumps([recipe.merge_method, recipe.semantics, effect])
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _slice_of(
  recipe: Recipe, name: str, layer: int | None, num_layers: int
) -> tuple[Slice, float]:
  """The slice that makes a tensor, and the tensor's depth in it, 0 to 1."""
  spans = [part.layers or (0, num_layers) for part in recipe.slices]
  ends = [*[start for start, _ in spans][1:], num_layers]
  if spans[0][0] != 0 or [end for _, end in spans] != ends:
    raise ValueError(
      f'slices cover layers {spans} of {num_layers}; expected each layer once '
      'and in order'
    )
  if layer is None:  # before the layers: first slice; after them: last
    return recipe.slices[0 if 'embed' in name else -1], 0.0
  for part, (start, end) in zip(recipe.slices, spans, strict=True):
    if start <= layer < end:
      last = end - start - 1
      return part, (layer - start) / last if last else 1.0
  raise ValueError(f'no slice holds layer {layer} of tensor {name!r}')


def _first(parameter, levels, name: str, depth: float) -> Any:
  for level in levels:
    value = _evaluate(level.get(parameter.name), name, depth)
    if value is not None:
      return float(value)
  return parameter.default


def _evaluate(setting: Setting, name: str, depth: float) -> Any:
  """Value of a setting for a tensor, None if it says nothing about it."""
  if isinstance(setting, dict):
    setting = [setting]
  if not isinstance(setting, list | tuple):
    return setting
  if not setting:
    return None
  if isinstance(setting[0], dict):
    for entry in setting:
      part = entry.get('filter')
      if part is None or part == '*' or part in name:
        return _evaluate(entry['value'], name, depth)
    return None
  position = depth * (len(setting) - 1)
  low = int(position)
  high = min(len(setting) - 1, low + 1)
  fraction = position - low
  return (1 - fraction) * setting[low] + fraction * setting[high]
