"""Who is what in a slice, and which numbers hold for a tensor."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from automerge_jax.recipes import settings
from automerge_jax.recipes.document import (
  Module,
  Recipe,
  Setting,
  Slice,
  Source,
  over_all_layers,
)
from automerge_jax.types import MergeMethod


@dataclasses.dataclass(frozen=True)
class Roles:
  """Who is what in a slice.

  Attributes:
    experts: the sources that are merged, in order.
    base: the base, where the slice says which of its layers take part.
    base_model: the base's name, if there is one.
  """

  experts: tuple[Source, ...]
  base: Source | None
  base_model: str | None


def roles(
  method: MergeMethod, recipe: Recipe, module: Module, part: Slice
) -> Roles:
  """The experts and the base of a slice.

  As in mergekit 0.1.5, a base that is not listed under `models` is a further
  model; methods that do not work on deltas then merge it like the others.

  Raises:
    ValueError: if the method needs a base or another number of experts.
  """
  base_model = part.base_model or recipe.base_model
  sources = list(part.sources)
  if base_model is not None and all(s.model != base_model for s in sources):
    spans = {s.layers for s in sources}
    if over_all_layers(module):
      sources.append(Source(base_model))
    elif method.stack != 'weights' and len(spans) == 1:
      sources.append(Source(base_model, layers=next(iter(spans))))
    elif method.stack != 'weights' or (
      method.name == 'slerp' and len(sources) < 2
    ):
      raise ValueError(
        f'the base {base_model!r} is none of the sources '
        f'{[s.model for s in sources]} of a slice, so its layers are unknown; '
        'add it to them with its `layer_range`'
      )
  base = next((s for s in sources if s.model == base_model), None)
  if method.stack == 'deltas' and base is None:
    raise ValueError(f'{method.name} needs a base; state `base_model`')
  if method.stack != 'weights':
    sources = [s for s in sources if s is not base]
  if method.name == 'slerp':  # from the base to the other
    sources.sort(key=lambda source: source.model != base_model)
  least, most = method.sources
  if len(sources) < least or (most is not None and len(sources) > most):
    wanted = f'{least} or more' if most is None else f'{least} to {most}'
    if least == most:
      wanted = str(least)
    raise ValueError(
      f'{method.name} merges {wanted} models'
      + (' besides the base' if method.stack == 'deltas' else '')
      + f', got {len(sources)}: {[s.model for s in sources]}'
    )
  return Roles(tuple(sources), base, base_model)


def parameters(
  method: MergeMethod,
  shared: Sequence[Mapping[str, Setting]],
  who: Roles,
  names: Sequence[str],
  output: str,
  depth: float,
) -> dict[str, Any]:
  """Every parameter of the method for one tensor.

  Filters look at the tensor's name in each expert where a parameter is per
  expert, and at its name in the output where it is shared.

  Args:
    method: what is merged with.
    shared: what is stated for all experts, the nearest first.
    who: the experts in the slice.
    names: of the tensor in the experts, K.
    output: its name in the output.
    depth: of its layer in the slice, 0 to 1.

  Raises:
    ValueError: if a required parameter is stated nowhere.
  """
  values: dict[str, Any] = {}
  for parameter in method.parameters:
    key, default = parameter.name, parameter.default
    if parameter.per_expert:
      found = [
        settings.first((s.parameters, *shared), key, name, depth)
        for s, name in zip(who.experts, names, strict=True)
      ]
      of = [s.model for s in who.experts]
    else:
      found = [settings.first(shared, key, output, depth)]
      of = ['the recipe']
    filled = [default if value is None else float(value) for value in found]
    if None in filled:
      model = of[filled.index(None)]
      hint = ''
      if model == who.base_model:
        hint = f' ({method.name} merges the base like any other model)'
      raise ValueError(
        f'parameter {key!r} of {method.name} is not stated for tensor '
        f'{output!r} of {model}{hint}; add it under `parameters`, or end its '
        'list with a `value` without `filter`'
      )
    values[key] = tuple(filled) if parameter.per_expert else filled[0]
  return values


def levels(
  recipe: Recipe, module: Module, part: Slice, leaf: Slice
) -> tuple[Mapping[str, Setting], ...]:
  """Where parameters are stated for all experts of a leaf of a slice."""
  own = () if leaf is part else (leaf.parameters,)
  stated = (*own, part.parameters, module.parameters, recipe.parameters)
  return tuple(level for level in stated if level)


def depth_of(index: int, count: int) -> float:
  """Depth of a slice's layer, 0 to 1; a single layer counts as the last."""
  return index / (count - 1) if count > 1 else 1.0
