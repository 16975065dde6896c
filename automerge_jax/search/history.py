"""What a search did, as the report shows it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from automerge_jax.merging import registry
from automerge_jax.merging.layers import layer_of
from automerge_jax.merging.resolve import resolve
from automerge_jax.models import base as models
from automerge_jax.recipe import Recipe
from automerge_jax.search.plan import Scored
from automerge_jax.types import Family


def log(
  scored: Sequence[Scored],
  rungs: Sequence[int],
  num_tasks: int,
  climb_items: int,
) -> list[dict[str, Any]]:
  """One row a generation, counts from the start; see `summary.build`.

  Scores are the objective's, of the highest rung that the generation reached;
  `incumbent` is the best so far.

  Args:
    scored: every candidate, in order.
    rungs: items a task at each rung.
    num_tasks: number of tasks.
    climb_items: items that gradient steps are charged, where there are any.
  """
  rows: list[dict[str, Any]] = []
  seen: set[tuple[str, int]] = set()
  items = failures = 0
  added = np.diff([0, *rungs]) * num_tasks
  best: Scored | None = None
  for generation in sorted({row.generation for row in scored}):
    mine = [row for row in scored if row.generation == generation]
    if any(row.candidate.origin.startswith('gradient') for row in mine):
      items += climb_items
    for row in mine:
      failures += row.failure is not None
      for rung in range(max(row.rung, 0) + 1):
        if (row.candidate.recipe, rung) not in seen:
          seen.add((row.candidate.recipe, rung))
          items += int(added[rung])
      if row.rung >= 0 and (best is None or _key(row) > _key(best)):
        best = row
    reached = max(row.rung for row in mine)
    top = [r.values[reached] for r in mine if r.rung == reached >= 0]
    rows.append(
      {
        'generation': generation,
        'candidates': sum(row.generation <= generation for row in scored),
        'evaluations': len(seen),
        'items': items,
        'full_evaluations': round(items / (rungs[-1] * num_tasks), 3),
        'failures': failures,
        'best': max(top) if top else None,
        'mean': float(np.mean(top)) if top else None,
        'incumbent': best.values[best.rung] if best else None,
      }
    )
  return rows


def points(
  scored: Sequence[Scored], tasks: Sequence[str], rungs: Sequence[int]
) -> list[dict[str, Any]]:
  """One row a scored candidate, at its highest rung."""
  return [
    {
      'generation': row.generation,
      'rung': row.rung,
      'items': rungs[row.rung] * len(tasks),
      'scores': dict(zip(tasks, row.accuracy, strict=True)),
      'mean': row.values[row.rung],
    }
    for row in scored
    if row.rung >= 0
  ]


def best(scored: Sequence[Scored], most: int) -> list[Scored]:
  """The best-scored different recipes at the highest rung, best first."""
  found: dict[str, Scored] = {}
  for row in sorted(
    (row for row in scored if row.rung >= 0), key=_key, reverse=True
  ):
    found.setdefault(row.candidate.recipe, row)
  return list(found.values())[:most]


def coefficients(
  recipe: Recipe,
  family: Family,
  filters: Sequence[tuple[str, str | None]],
  experts: Sequence[str],
) -> dict[str, Any] | None:
  """The recipe's weights (SLERP: shares) by expert, component and layer.

  Read from the recipe itself, tensor by tensor, so the picture cannot differ
  from what was merged. None for a method without weights.
  """
  method = registry.get(recipe.merge_method, recipe.semantics)
  if method.name != 'slerp' and all(
    p.name != 'weight' for p in method.parameters
  ):
    return None
  components = [name for name, _ in filters]
  layers = [str(i) for i in range(family.num_layers)]
  values: list[list[list[float | None]]] = [
    [[None] * len(layers) for _ in components] for _ in experts
  ]
  for path in models.by_leaf(family.keys).values():
    for key in path:
      resolved = resolve(
        recipe, key.stored, layer_of(key.stored), family.num_layers
      )
      share = _shares(method.name, resolved)
      component = next(
        i
        for i, (_, part) in enumerate(filters)
        if part is None or part in key.stored
      )
      if key.layer is None and components[component] != 'stem':
        continue  # behind the layers: told by the last of them
      for k, expert in enumerate(experts):
        value = share.get(expert, 0.0)
        if key.layer is None:  # the stem stands in the first row
          values[k][component][0] = value
        else:
          values[k][component][key.layer] = value
  return {
    'parameter': 'share' if method.name == 'slerp' else 'weight',
    'experts': list(experts),
    'components': components,
    'layers': layers,
    'values': values,
  }


def _shares(method: str, resolved) -> dict[str, float]:
  if method == 'slerp':
    t = resolved.parameters['t']
    return dict(zip(resolved.experts, (1 - t, t), strict=True))
  weights = resolved.parameters['weight']
  return dict(zip(resolved.experts, weights, strict=True))


def _key(row: Scored) -> tuple[int, float]:
  return row.rung, row.values[row.rung]
