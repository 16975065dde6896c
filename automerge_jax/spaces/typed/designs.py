"""Where a typed search starts: recipes as points of the space."""

from collections.abc import Mapping, Sequence

import numpy as np

from automerge_jax.merging import resolve
from automerge_jax.merging.layers import layer_of
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.spaces.typed import coding as typed_coding
from automerge_jax.spaces.typed.layout import Layout
from automerge_jax.spaces.typed.merges import Merge, differ, merges
from automerge_jax.spaces.typed.parameters import PAIR, PICK
from automerge_jax.types import SearchSpace

Start = tuple[str, np.ndarray]


def starts(
  layout: Layout,
  space: SearchSpace,
  designs: Sequence[tuple[str, Recipe]],
) -> tuple[tuple[Start, ...], dict[str, str]]:
  """Start points, and why the others are none, by origin.

  `expert:NAME` for each expert, if the space holds just that, else
  `nearly:NAME` for what comes near it; `base`; `uniform`, the average; then the
  designs. A point that an earlier one equals is left out.
  """
  found: dict[str, Start] = {}
  missed: dict[str, str] = {}

  def add(origin: str, c: np.ndarray) -> None:
    found.setdefault(_hash(layout, space.describe(c)), (origin, c))

  models = {f'expert:{e}': e for e in layout.experts}
  for origin, model in (models | {'base': layout.base_model}).items():
    exact = _hash(layout, _alone(layout, model))
    points = _singles(layout, space, model)
    same = [c for c in points if _hash(layout, space.describe(c)) == exact]
    if same:
      add(origin, same[0])
    elif points and origin != 'base':
      add(f'nearly:{model}', points[0])
    else:
      missed[origin] = 'no method of this space gives a single model'
  average = ('uniform', _uniform(layout))
  for origin, recipe in [average, *designs]:
    if origin in missed:
      continue
    try:
      add(origin, place(layout, space, recipe))
    except ValueError as error:
      missed[origin] = str(error)
  return tuple(found.values()), missed


def place(layout: Layout, space: SearchSpace, recipe: Recipe) -> np.ndarray:
  """Coefficients [D] whose recipe is this one, up to the grid.

  Args:
    layout: of the space.
    space: what `layerwise.from_layout` made of it.
    recipe: of the same models, by the same names.

  Raises:
    ValueError: if it cannot be expressed; naming the tensor and what differs.
  """
  wanted = merges(layout, recipe)
  of_name = layout.sites.of_name
  c = _filled(layout, {of_name[name]: one for name, one in wanted.items()})
  c = _canonical(space, c)
  for name, have in merges(layout, space.describe(c)).items():
    difference = differ(layout, have, wanted[name])
    if difference:
      raise ValueError(f'tensor {name!r}: {difference}')
  return c


def _canonical(space: SearchSpace, c: np.ndarray) -> np.ndarray:
  return np.asarray(space.quantise(space.encode(c)), np.float32)


def _hash(layout: Layout, recipe: Recipe) -> str:
  names = {name: layer_of(name) for name in layout.sites.of_name}
  return resolve.effective_hash(recipe, names, layout.sites.depth)


def _alone(layout: Layout, model: str) -> Recipe:
  span = (0, layout.sites.depth)
  return Recipe(PICK, (Slice((Source(model, layers=span),)),))


def _uniform(layout: Layout) -> Recipe:
  span = (0, layout.sites.depth)
  if layout.index('linear') is not None:
    sources = tuple(Source(e, {'weight': 1.0}, span) for e in layout.experts)
    return Recipe('linear', (Slice(sources),))
  weight = {'weight': 1 / len(layout.experts)}
  sources = tuple(Source(e, weight, span) for e in layout.experts)
  return Recipe(
    'task_arithmetic', (Slice(sources),), base_model=layout.base_model
  )


def _singles(
  layout: Layout, space: SearchSpace, model: str
) -> list[np.ndarray]:
  """Points of each method that should give one model, the base included."""
  models = (*layout.experts, layout.base_model)
  at, count = models.index(model), len(layout.experts)
  found = []
  for m, method in enumerate(layout.methods):
    weighs = method.name in (PICK, PAIR) or layout.block(m, 'weight')
    if not weighs or (at == count and method.name == PAIR):
      continue
    option, numbers = 0, {}
    if method.name == PICK:
      option = at
    elif method.name == PAIR:
      option = next(i for i, pair in enumerate(layout.pairs) if at in pair)
      numbers['t'] = np.asarray([float(layout.pairs[option][1] == at)])
    for parameter in method.parameters:
      numbers.setdefault(parameter.name, np.ones(count))
    numbers['weight'] = np.asarray(np.arange(count) == at, np.float32)
    one = Merge(m, option, numbers)
    c = _filled(layout, dict.fromkeys(range(len(layout.unit_of)), one))
    made = _canonical(space, c)
    weight = layout.block(m, 'weight')
    if weight is None or np.allclose(
      made[weight.dims], c[weight.dims], atol=1e-3
    ):
      found.append(made)
  return found


def _filled(layout: Layout, of_site: Mapping[int, Merge]) -> np.ndarray:
  """Raw coefficients that say this of each site; else the middle."""
  low, high = (
    typed_coding.by_dimension(layout, end) for end in ('low', 'high')
  )
  c = (low + high) / 2
  near = np.full(layout.columns, -1.0)
  best = np.zeros(layout.columns, np.int32)
  for site in of_site:
    share = float(layout.share[site])
    for column, part in (
      (layout.high_of[site], share),
      (layout.low_of[site], 1 - share),
    ):
      if part > near[column]:
        near[column], best[column] = part, site
  units = {int(unit): site for site, unit in enumerate(layout.unit_of)}
  for block in layout.blocks:
    rows = c[block.dims].reshape(block.shape)  # a view
    if block.choices:
      for unit, site in units.items():
        one = of_site[site]
        rows[0, unit] = one.method if block.method is None else 0
        if block.method == one.method:
          rows[0, unit] = one.option
      continue
    for column, site in enumerate(best):
      one = of_site[int(site)]
      if one.method == block.method and block.parameter in one.numbers:
        rows[:, column] = one.numbers[block.parameter][: block.shape[0]]
  return c
