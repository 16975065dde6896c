"""Fusion spaces: one merge method, its parameters free in every cell.

With one cell this is model-wise merging; with layers times components it is the
layer-wise fusion (LFS) of https://arxiv.org/abs/2502.04030, here with a
coefficient for each expert.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.spaces import cells as divisions
from automerge_jax.spaces import grid
from automerge_jax.spaces.cells import Cells
from automerge_jax.types import Array, MergeMethod, MergePlan, SearchSpace


def space(
  method: MergeMethod,
  cells: Cells,
  experts: Sequence[str],
  base_model: str,
  ranges: Mapping[str, tuple[float, float]] | None = None,
) -> SearchSpace:
  """The space of all recipes of one method over the given cells.

  Args:
    method: the merge method; its searched parameters become dimensions. SLERP
      gets a score for each expert instead: in each layer group the two highest
      (summed over components) are merged, t being the second's share.
    cells: which tensors share coefficients.
    experts: model names as recipes shall name them, K.
    base_model: the base's name.
    ranges: other (low, high) than the method's, by parameter.

  Raises:
    ValueError: if `ranges` names a parameter that is not searched, or the
      method has nothing to search or takes another number of experts; or if
      SLERP's cells reach from the first to the last of several layer groups.
  """
  spherical = method.name == 'slerp'
  if spherical:
    _slices(cells)
  searched = {
    p.name: (p.low, p.high, p.per_expert)
    for p in method.parameters
    if p.low is not None and p.high is not None
  }
  if spherical:
    searched = {'score': (0.0, 1.0, True)}
  least, most = method.sources
  if not searched or not (
    spherical or least <= len(experts) <= (most or len(experts))
  ):
    raise ValueError(
      f'{method.name} cannot be searched over {len(experts)} experts: it takes '
      f'{least} to {most or "any number"} and searches {sorted(searched)}'
    )
  for name, (low, high) in (ranges or {}).items():
    if name not in searched:
      raise ValueError(
        f'range given for {name!r}, which {method.name} does not search'
        + trees.nearest(name, searched)
      )
    searched[name] = (low, high, searched[name][2])

  # Dimensions: parameter-major, then expert, then cell.
  blocks, names, lows, highs, owners = {}, [], [], [], []
  for name, (low, high, per_expert) in searched.items():
    owner_names = list(experts) if per_expert else ['all']
    start = len(names)
    for owner in owner_names:
      for group, component in cells.names:
        span = 'all' if group is None else '{}-{}'.format(*cells.spans[group])
        names.append(f'{name}/{owner}/{span}/{component or "all"}')
        owners.append(f'{name}/{owner}')
    size = len(names) - start
    lows += [low] * size
    highs += [high] * size
    blocks[name] = (start, size, per_expert)
  quantise, encode = grid.quantiser(
    [name.split('/')[0] for name in names], lows, highs
  )

  def decode(c: Array) -> MergePlan:
    values = {}
    for name, (start, size, per_expert) in blocks.items():
      block = c[start : start + size]
      values[name] = (
        block.reshape(len(experts), -1) if per_expert else block
      )  # [K, cells] or [cells]
    if spherical:
      values = _pairs(values['score'], cells)
    owners = {p.name: (len(experts),) * p.per_expert for p in method.parameters}
    fixed = {
      p.name: jnp.full((*owners[p.name], len(cells.names)), p.default)
      for p in method.parameters
      if p.name not in values
    }
    return {
      path: {k: v[..., cell] for k, v in (values | fixed).items()}
      for path, cell in cells.of_leaf.items()
    }

  compiled = jax.jit(decode)

  def describe(c) -> Recipe:
    plan = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    return _recipe(method, plan, cells, list(experts), base_model)

  return SearchSpace(
    tuple(names),
    grid.correlation(owners),
    quantise,
    encode,
    decode,
    describe,
  )


def _pairs(score: Array, cells: Cells) -> dict[str, Array]:
  """SLERP's pair and t of each cell, from scores [K, cells]."""
  groups = _slices(cells)
  member = (groups[:, None] == np.arange(groups.max() + 1)).astype(np.float32)
  ranking = jnp.argsort(-(score @ member), axis=0, stable=True)  # [K, groups]
  first, second = ranking[0][groups], ranking[1][groups]
  columns = np.arange(len(groups))
  high, low = score[first, columns], score[second, columns]
  share = jnp.where(high + low > 0, low / jnp.maximum(high + low, 1e-9), 0.5)
  return {
    't': grid.snapper(['t'], [0.0], [1.0])(share),
    'first': first.astype(jnp.float32),
    'second': second.astype(jnp.float32),
  }


def _slices(cells: Cells) -> np.ndarray:
  """The recipe's slice of each cell: one has one pair of models."""
  found: dict[int, int] = {}
  for group in range(len(cells.spans)):
    for _, cell in divisions.in_slice(cells, group):
      if found.setdefault(cell, group) != group:
        raise ValueError(
          f'slerp takes one pair of models in each of {len(cells.spans)} layer '
          f'groups, but {cells.names[cell][1]!r} stands before and behind the '
          "layers; divide it (components 'own') or take one group"
        )
  return np.asarray([found[cell] for cell in range(len(cells.names))])


def _recipe(
  method: MergeMethod,
  plan: Mapping[str, Mapping[str, np.ndarray]],
  cells: Cells,
  experts: list[str],
  base_model: str,
) -> Recipe:
  """Writes a plan down; `streaming.merge` of it gives the plan's tensors."""
  # One leaf entry of each cell is enough, all others are equal.
  where = {}
  for path, of_leaf in cells.of_leaf.items():
    for at, cell in np.ndenumerate(of_leaf):
      where.setdefault(int(cell), (path, at))

  def value(cell: int, name: str, expert: int | None) -> float:
    path, at = where[cell]
    array = plan[path][name]
    number = array[at] if expert is None else array[(expert, *at)]
    return grid.shortest(number)

  has_base = method.stack != 'weights'
  spherical = method.name == 'slerp'
  per_expert = [p.name for p in method.parameters if p.per_expert]
  shared = [
    p.name for p in method.parameters if not p.per_expert and p.low is not None
  ]
  parts = []
  for group, span in enumerate(cells.spans):
    parts_of = divisions.in_slice(cells, group)

    def setting(name: str, expert: int | None, parts_of=parts_of) -> Any:
      if not cells.filters:
        return value(0, name, expert)
      return [
        ({} if part is None else {'filter': part})
        | {'value': value(cell, name, expert)}
        for part, cell in parts_of
      ]

    first_cell = parts_of[0][1]
    if spherical:
      chosen = [int(value(first_cell, k, None)) for k in ('first', 'second')]
    else:
      chosen = list(range(len(experts)))
    sources = tuple(
      Source(
        experts[k],
        {name: setting(name, k) for name in per_expert},
        span if cells.filters else None,
      )
      for k in chosen
    )
    parts.append(
      Slice(
        sources,
        base_model=experts[chosen[0]] if spherical else None,
        parameters={name: setting(name, None) for name in shared},
      )
    )
  return Recipe(
    merge_method=method.name,
    slices=tuple(parts),
    base_model=base_model if has_base else None,
    semantics=method.semantics,
  )
