"""Layer-wise fusion as published: https://arxiv.org/abs/2502.04030.

The variables, their names and their decoding of the code that came with the
paper, to compare with. `layerwise.py` differs where this wastes or confines:

- Every variable is always there, though of a group only those of its method
  count. There they are inactive.
- Task arithmetic and TIES have one number for all models. There each has its.
- SLERP takes the two models of the highest sums of `slerp_t` over components,
  and the share of the second is a softmax of two numbers in [0, 1]: 0.269 to
  0.731. There a pair is a category and t goes from 0 to 1.
- What is in no layer goes with the component `base` of the first or the last
  group. There it has cells of its own.
- Starts are single models only.

Three things are not as published. Numbers are decimals of four places (mask
rates of three), as recipes say them. TIES keeps the whole number of entries
that a density of 1 - mask rate gives, of equal ones the first. Components are
those of any family: attention, `base` (norms), and the rest of a layer as mlp.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import mixed, registry
from automerge_jax.recipe import Recipe
from automerge_jax.spaces import cells as divisions
from automerge_jax.spaces import grid
from automerge_jax.spaces.cells import Cells
from automerge_jax.spaces.typed import layout as typed_layout
from automerge_jax.spaces.typed import recipe as typed_recipe
from automerge_jax.types import Array, Family, MergePlan, SearchSpace

METHODS = ('linear', 'task_arithmetic', 'ties', 'slerp')
COMPONENTS = ('attention', 'mlp', 'base')
_MASK = 0.99  # highest share of entries that TIES drops
_START_MASK = 0.1


def space(
  family: Family,
  experts: Sequence[str],
  base_model: str,
  *,
  layer_granularity: int = 1,
) -> SearchSpace:
  """The published space; merged by `mixed.of` the `METHODS`.

  It has G (1 + 3 (2 K + 3)) variables, G being the number of layer groups.

  Args:
    family: of the models.
    experts: model names as recipes shall name them, K of two or more.
    base_model: the base's name.
    layer_granularity: layers of a group; a divisor of their number.

  Raises:
    ValueError: for fewer experts, or another granularity.
  """
  count, depth = len(experts), family.num_layers
  if count < 2:
    raise ValueError(f'experts are {list(experts)}; expected two or more')
  if layer_granularity < 1 or depth % layer_granularity:
    raise ValueError(
      f'layer_granularity is {layer_granularity}; expected a divisor of the '
      f'{depth} layers'
    )
  cells = _cells(family, layer_granularity)
  groups = depth // layer_granularity
  names, kinds, highs = _variables(groups, count)
  # Of a group: the method, then blocks of these shapes.
  shapes = (count, 3), (3,), (3,), (3,), (count, 3)
  width = 1 + sum(int(np.prod(shape)) for shape in shapes)
  is_method = np.asarray(kinds) == 'method'
  numbers, encoded = grid.quantiser(kinds, np.zeros(len(highs)), highs)
  options = len(METHODS)

  def quantise(x: Array) -> Array:
    category = jnp.floor(jnp.clip(x, 0.0, 1.0) * options)
    return jnp.where(is_method, jnp.minimum(category, options - 1), numbers(x))

  def encode(c: Array) -> Array:
    return jnp.where(is_method, (jnp.asarray(c) + 0.5) / options, encoded(c))

  site_group, site_part = _sites(cells)

  def values(c: Array) -> dict[str, Array]:
    rows = c.reshape(groups, width)
    found, start = [], 1
    for shape in shapes:
      size = int(np.prod(shape))
      found.append(rows[:, start : start + size].reshape(groups, *shape))
      start += size
    weight, scale, mask, ties_scale, score = found

    def shared(array: Array) -> Array:  # [G, 3] -> [sites]
      return array[site_group, site_part]

    def everyone(array: Array) -> Array:  # [sites] -> [K, sites]
      return jnp.broadcast_to(array, (count, len(array)))

    ranking = jnp.argsort(-score.sum(-1), axis=-1, stable=True)
    first, second = ranking[site_group, 0], ranking[site_group, 1]
    ahead, behind = (
      score[site_group, model, site_part] for model in (first, second)
    )
    share = jax.nn.sigmoid(behind - ahead)  # softmax of the two
    t = jnp.asarray(grid.decimals(0, grid.UNIT))[
      jnp.rint(share * grid.UNIT).astype(jnp.int32)
    ]
    ones = jnp.ones(len(site_group))
    kept = jnp.asarray(grid.decimals(0, grid.UNIT))[
      grid.UNIT - jnp.rint(shared(mask) * grid.UNIT).astype(jnp.int32)
    ]
    return _defaults(count, len(site_group)) | {
      mixed.METHOD: rows[:, 0][site_group],
      'linear/weight': weight[site_group, :, site_part].T,
      'task_arithmetic/weight': everyone(ones),
      'task_arithmetic/lambda': shared(scale),
      'ties/weight': everyone(ones),
      'ties/density': everyone(kept),
      'ties/lambda': shared(ties_scale),
      'slerp/t': t,
      'slerp/first': first.astype(jnp.float32),
      'slerp/second': second.astype(jnp.float32),
    }

  def decode(c: Array) -> MergePlan:
    of_site = values(jnp.asarray(c))
    return {
      path: {name: value[..., site] for name, value in of_site.items()}
      for path, site in cells.of_leaf.items()
    }

  layout = typed_layout.layout(
    [registry.get(name) for name in METHODS],
    cells,
    experts,
    base_model,
    ranges={'lambda': (0.0, 1.0)},
  )
  compiled = jax.jit(values)

  def describe(c) -> Recipe:
    found = jax.device_get(compiled(jnp.asarray(c, jnp.float32)))
    return typed_recipe.write(layout, found)

  return SearchSpace(
    names,
    grid.correlation(names),
    jax.jit(quantise),
    encode,
    decode,
    describe,
    choices=np.where(is_method, options, 0).astype(np.int32),
    starts=tuple(
      (f'expert:{expert}', _single(kinds, names, k))
      for k, expert in enumerate(experts)
    ),
    smooth=np.isin(kinds, ('weight', 'lambda')),
  )


def _cells(family: Family, size: int) -> Cells:
  """Groups times attention, mlp and base, which takes what is in no layer."""
  outer = [('base', part) for _, part in divisions.outside(family)]
  inner = [
    (name if name in COMPONENTS else 'base', part)
    for name, part in family.components['coarse']
    if name != 'stem'
  ]
  return divisions.layered(family, size, (*outer, *inner))


def _sites(cells: Cells) -> tuple[np.ndarray, np.ndarray]:
  """Layer group and component of each cell."""
  found = []
  for group, component in cells.names:
    assert group is not None, 'a component that is in no layer'
    found.append((group, COMPONENTS.index(str(component))))
  groups, parts = zip(*found, strict=True)
  return np.asarray(groups), np.asarray(parts)


def _variables(
  groups: int, count: int
) -> tuple[tuple[str, ...], list[str], list[float]]:
  """Names, parameters and highest values, in order."""
  found: list[tuple[str, str, float]] = []
  parts = range(len(COMPONENTS))
  for g in range(groups):
    found.append((f'layer_selection_method_{g}', 'method', 1.0))
    found += [
      (
        f'model_{m}_layer_{g}_paramset_{f}_method_linear_param_weights',
        'weight',
        1.0,
      )
      for m in range(count)
      for f in parts
    ]
    for name, kind, high in (
      ('task_arithmetic_param_scaling_coefficient', 'lambda', 1.0),
      ('ties_param_param_value_mask_rate', 'density', _MASK),
      ('ties_param_scaling_coefficient', 'lambda', 1.0),
    ):
      found += [
        (f'layer_{g}_paramset_{f}_method_{name}', kind, high) for f in parts
      ]
    found += [
      (f'model_{m}_layer_{g}_paramset_{f}_method_slerp_param_slerp_t', 't', 1.0)
      for m in range(count)
      for f in parts
    ]
  names, kinds, highs = zip(*found, strict=True)
  return names, list(kinds), list(highs)


def _defaults(count: int, sites: int) -> dict[str, Array]:
  """Parameters of the mixed method that no variable sets."""
  found = {}
  for parameter in mixed.of([registry.get(n) for n in METHODS]).parameters:
    if parameter.default is not None:
      shape = (count, sites) if parameter.per_expert else (sites,)
      found[parameter.name] = jnp.full(shape, parameter.default, jnp.float32)
  return found


def _single(
  kinds: Sequence[str], names: Sequence[str], expert: int
) -> np.ndarray:
  """The published start of one model: linear, all weight on it."""
  own = [name.startswith(f'model_{expert}_') for name in names]
  return np.asarray(
    [
      _START_MASK if kind == 'density' else float(kind == 'weight' and mine)
      for kind, mine in zip(kinds, own, strict=True)
    ],
    np.float32,
  )
