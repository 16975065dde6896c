"""What a search did, as the report shows it."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from automerge_jax.merging.layers import layer_of
from automerge_jax.merging.outputs import Output, outputs
from automerge_jax.models import base as models
from automerge_jax.recipe import Recipe
from automerge_jax.search.plan import Scored
from automerge_jax.types import Family


def log(
  scored: Sequence[Scored],
  rungs: Sequence[int],
  num_tasks: int,
  spent: Sequence[int],
) -> list[dict[str, Any]]:
  """One row a generation, counts from the start; see `summary.build`.

  Scores are the objective's (of several: their mean), of the highest rung that
  the generation reached; `incumbent` is the best so far, of those that break
  the constraints least. Evaluations count a recipe at a rung, also where it
  failed or a race stopped it.

  Args:
    scored: every candidate, in order.
    rungs: items a task at each rung.
    num_tasks: number of tasks.
    spent: items that were scored up to the end of each generation, equal
      recipes once, those of gradient steps at their cost.

  Raises:
    ValueError: if `spent` has not one entry a generation.
  """
  rows: list[dict[str, Any]] = []
  seen: set[tuple[str, int]] = set()
  failures = 0
  best: Scored | None = None
  generations = sorted({row.generation for row in scored})
  if generations != list(range(len(spent))):
    raise ValueError(
      f'items spent after {len(spent)} generations, but candidates are of '
      f'{len(generations)}: {generations[:3]} ...'
    )
  for generation in generations:
    mine = [row for row in scored if row.generation == generation]
    for row in mine:
      failures += row.failure is not None
      seen |= {(row.candidate.recipe, r) for r in range(_begun(row) + 1)}
      if row.rung >= 0 and (best is None or _key(row) > _key(best)):
        best = row
    reached = max(row.rung for row in mine)
    top = [r.values[reached] for r in mine if r.rung == reached >= 0]
    items = int(spent[generation])
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


def spending(
  scored: Sequence[Scored],
  rungs: Sequence[int],
  num_tasks: int,
  gradient_items: int,
) -> dict[str, Any]:
  """Where the items of a search went; equal recipes count once.

  Args:
    scored: every candidate.
    rungs: items a task at each rung.
    num_tasks: number of tasks.
    gradient_items: that gradient steps were charged.

  Returns:
    `rungs`: rows of `items` (a task), `completed`, `stopped` (by a race) and
    `failed` (recipes), and `scored` (items, of all tasks); `items_saved` (that
    races spared of the rungs in which they stopped a recipe),
    `gradient_items`, and `failures` (candidates by reason).
  """
  furthest: dict[str, Scored] = {}
  for row in scored:
    other = furthest.setdefault(row.candidate.recipe, row)
    if (_begun(row), row.seen) > (_begun(other), other.seen):
      furthest[row.candidate.recipe] = row
  recipes = list(furthest.values())
  added = np.diff([0, *rungs]) * num_tasks
  below = np.asarray([0, *rungs]) * num_tasks
  rows, saved = [], 0
  for rung, size in enumerate(rungs):
    completed = sum(row.rung >= rung for row in recipes)
    here = [row for row in recipes if _begun(row) == rung > row.rung]
    stopped = [row for row in here if row.stopped]
    partly = sum(row.seen - int(below[rung]) for row in stopped)
    saved += len(stopped) * int(added[rung]) - partly
    rows.append(
      {
        'items': int(size),
        'completed': completed,
        'stopped': len(stopped),
        'failed': sum(row.failure is not None for row in here),
        'scored': completed * int(added[rung]) + partly,
      }
    )
  reasons = collections.Counter(
    row.failure for row in scored if row.failure is not None
  )
  return {
    'rungs': rows,
    'items_saved': saved,
    'gradient_items': int(gradient_items),
    'failures': dict(reasons.most_common()),
  }


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


def coefficients(
  recipe: Recipe,
  family: Family,
  filters: Sequence[tuple[str, str | None]],
  experts: Sequence[str],
) -> dict[str, Any] | None:
  """The recipe's weights (or shares) by expert, component and output layer.

  Read from what the recipe says of each tensor, so the picture cannot differ
  from what was merged. SLERP and single models have shares, which add up to
  one; methods with weights have those; others have neither.

  Returns:
    `parameter`, `experts`, `components`, `layers` (labels: `3`, or `3←5` where
    output layer 3 is made of layers 5), `values` [expert][component][layer],
    None where there is none, and `program`: None where each layer stands in its
    place and all are merged alike, else `depth` (layers of the merge), `of`
    (layers of its parents) and `layers`, one row an output layer: `sources`
    (layers), `models` (that take part), `methods` and `scales` (other than 1).
    None for a recipe that has neither values nor a program.
  """
  stored = [
    k.stored for path in models.by_leaf(family.keys).values() for k in path
  ]
  made = outputs(recipe, dict.fromkeys(recipe.models, stored))
  inside = [output for output in made if output.layer is not None]
  depth = 1 + max(_layer(output) for output in inside)
  components = [name for name, _ in filters]
  values: list[list[list[float | None]]] = [
    [[None] * depth for _ in components] for _ in experts
  ]
  kinds = set()
  for output in made:
    component = next(
      i
      for i, (_, part) in enumerate(filters)
      if part is None or part in output.name
    )
    if output.layer is None and components[component] != 'stem':
      continue  # behind the layers: told by the last of them
    kind, share = _shares(output)
    if kind is None:
      continue
    kinds.add(kind)
    for k, expert in enumerate(experts):
      # The stem stands in the first row.
      values[k][component][output.layer or 0] = share.get(expert, 0.0)
  rows = [
    _program_row([o for o in inside if o.layer == layer])
    for layer in range(depth)
  ]
  plain = depth == family.num_layers and all(
    row['sources'] == [layer] for layer, row in enumerate(rows)
  )
  alike = not any(
    part.merge_method or part.parts or part.scales
    for module in recipe.stacks
    for part in module.slices
  )
  program = None
  if not (plain and alike):
    program = {'depth': depth, 'of': family.num_layers, 'layers': rows}
  if not kinds and program is None:
    return None
  return {
    'parameter': ' or '.join(sorted(kinds, reverse=True)),
    'experts': list(experts),
    'components': components,
    'layers': [
      str(layer)
      if row['sources'] == [layer]
      else f'{layer}←{",".join(map(str, row["sources"]))}'
      for layer, row in enumerate(rows)
    ],
    'values': values,
    'program': program,
  }


def _shares(output: Output) -> tuple[str | None, dict[str, float]]:
  """Share or weight of each model in a tensor, and which of the two it is."""
  kind, parts = 'share', ()
  if output.method.name == 'slerp':
    t = output.parameters['t']
    parts = (1 - t, t)
  elif output.method.name == 'passthrough':
    parts = (1.0,)
  elif 'weight' in output.parameters:
    kind, parts = 'weight', output.parameters['weight']
  else:
    return None, {}
  found: dict[str, float] = {}
  for (model, _), part in zip(output.sources, parts, strict=True):
    found[model] = found.get(model, 0.0) + part
  return kind, found


def _program_row(made: Sequence[Output]) -> dict[str, Any]:
  """What one output layer is made of."""
  sources, taking, methods, scales = set(), {}, {}, set()
  for output in made:
    kind, share = _shares(output)
    sources |= {layer_of(name) for _, name in output.sources}
    methods[output.method.name] = None
    used = [m for m, _ in output.sources if kind is None or share.get(m)]
    if not used and output.base is not None:
      used = [output.base[0]]
    taking |= dict.fromkeys(used)
    if output.scale is not None:
      scales.add(float(output.scale.value))
    if output.method.name == 'passthrough':
      scales |= {float(s) for s in np.ravel(output.parameters['scale'])}
  return {
    'sources': sorted(layer for layer in sources if layer is not None),
    'models': list(taking),
    'methods': list(methods),
    'scales': sorted(scales - {1.0}),
  }


def _layer(output: Output) -> int:
  assert output.layer is not None
  return output.layer


def _key(row: Scored) -> tuple[int, float, float]:
  return row.rung, -row.violations[row.rung], row.values[row.rung]


def _begun(row: Scored) -> int:
  """The highest rung at which it was scored, completed or not."""
  return row.rung + (row.stopped or row.failure is not None)
