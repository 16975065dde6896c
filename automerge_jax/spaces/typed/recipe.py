"""Writes down what a typed space says at each site, as a recipe."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from automerge_jax.merging import mixed
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.spaces import cells as divisions
from automerge_jax.spaces import grid
from automerge_jax.spaces.typed.layout import Layout
from automerge_jax.spaces.typed.parameters import PAIR, PICK


class _Merge(NamedTuple):
  """What is done to the tensors of one site.

  Attributes:
    method: name.
    models: that are merged, in order.
    base_model: where it is not the recipe's.
    own: values of each model's own parameters.
    shared: values of the others.
  """

  method: str
  models: tuple[str, ...]
  base_model: str | None
  own: dict[str, tuple[float, ...]]
  shared: dict[str, float]


def write(layout: Layout, values: Mapping[str, np.ndarray]) -> Recipe:
  """The recipe whose merge by tensor is what these values make.

  A slice whose components are merged by one method from the same models states
  numbers by filter, as mergekit reads them; else it has `parts`.

  Args:
    layout: of the space.
    values: every parameter of the mixed method at each site, [K, sites] or
      [sites].
  """
  merges = [_merge(layout, values, i) for i in range(len(layout.unit_of))]
  first, *_ = divisions.in_slice(layout.sites, 0)
  main = merges[first[1]].method
  slices = []
  for group, span in enumerate(layout.sites.spans):
    parts = [
      (part, merges[site])
      for part, site in divisions.in_slice(layout.sites, group)
    ]
    if len({(m.method, m.models) for _, m in parts}) == 1:
      slices.append(_slice(parts, span, main))
    else:
      slices.append(
        Slice(
          parts=tuple(
            _slice([(None, merge)], span, main, part) for part, merge in parts
          )
        )
      )
  by_name = {m.name: m for m in layout.methods}
  used = {merge.method for merge in merges}
  needs_base = any(by_name[name].stack != 'weights' for name in used)
  return Recipe(
    merge_method=main,
    slices=tuple(slices),
    base_model=layout.base_model if needs_base else None,
    semantics=mixed.semantics(layout.methods),
  )


def _merge(
  layout: Layout, values: Mapping[str, np.ndarray], site: int
) -> _Merge:
  index = int(values[mixed.METHOD][site])
  method = layout.methods[index]
  if method.name == PICK:
    models = (*layout.experts, layout.base_model)
    return _Merge(
      PICK, (models[int(values[f'{PICK}/first'][site])],), None, {}, {}
    )
  own, shared = {}, {}
  per_expert = {p.name for p in method.parameters if p.per_expert}
  for name in layout.stated[index]:
    value = values[f'{method.name}/{name}'][..., site]
    if name in per_expert:
      own[name] = tuple(grid.shortest(v) for v in value)
    else:
      shared[name] = grid.shortest(value)
  if method.name == PAIR:
    first, second = (
      layout.experts[int(values[f'{PAIR}/{end}'][site])]
      for end in ('first', 'second')
    )
    return _Merge(PAIR, (first, second), first, own, shared)
  return _Merge(method.name, layout.experts, None, own, shared)


def _slice(
  parts: Sequence[tuple[str | None, _Merge]],
  span: tuple[int, int],
  main: str,
  part: str | None = None,
) -> Slice:
  """Components of one method and the same models, told apart by filter."""
  _, one = parts[0]

  def setting(values: Sequence[float]) -> Any:
    if len(set(values)) == 1:
      return values[0]
    return [
      ({} if name is None else {'filter': name}) | {'value': value}
      for (name, _), value in zip(parts, values, strict=True)
    ]

  return Slice(
    sources=tuple(
      Source(
        model,
        {name: setting([m.own[name][k] for _, m in parts]) for name in one.own},
        span,
      )
      for k, model in enumerate(one.models)
    ),
    base_model=one.base_model,
    parameters={
      name: setting([m.shared[name] for _, m in parts]) for name in one.shared
    },
    merge_method=None if one.method == main else one.method,
    filter=part,
  )
