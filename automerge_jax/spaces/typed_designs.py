"""Where a typed search starts: recipes as points of the space."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.merging import resolve
from automerge_jax.merging.layers import layer_of
from automerge_jax.merging.resolve import Output
from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.spaces import typed_coding
from automerge_jax.spaces.typed_layout import PAIR, PICK, Layout
from automerge_jax.types import SearchSpace

_STEP = 1.1e-3  # what the grid may take off a number, densities most

Start = tuple[str, np.ndarray]


class _Merge(NamedTuple):
  """What happens to one tensor.

  Attributes:
    method: index of the method.
    option: of its pair or model; 0 without.
    numbers: by parameter, [K] or [1].
  """

  method: int
  option: int
  numbers: dict[str, np.ndarray]


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
  wanted = _merges(layout, recipe)
  of_name = layout.sites.of_name
  c = _filled(layout, {of_name[name]: one for name, one in wanted.items()})
  c = _canonical(space, c)
  for name, have in _merges(layout, space.describe(c)).items():
    difference = _differ(layout, have, wanted[name])
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
    one = _Merge(m, option, numbers)
    c = _filled(layout, dict.fromkeys(range(len(layout.unit_of)), one))
    made = _canonical(space, c)
    weight = layout.block(m, 'weight')
    if weight is None or np.allclose(
      made[weight.dims], c[weight.dims], atol=1e-3
    ):
      found.append(made)
  return found


def _filled(layout: Layout, of_site: Mapping[int, _Merge]) -> np.ndarray:
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


def _merges(layout: Layout, recipe: Recipe) -> dict[str, _Merge]:
  of_name = layout.sites.of_name
  names = dict.fromkeys(recipe.models, tuple(of_name))
  made = {o.name: o for o in resolve.outputs(recipe, names)}
  if set(made) != set(of_name):
    raise ValueError('the recipe makes another number of layers')
  return {
    name: _merge(layout, output, recipe.seed) for name, output in made.items()
  }


def _merge(layout: Layout, output: Output, seed: int) -> _Merge:
  """The tensor's merge in this space's terms."""
  method, values = output.method, dict(output.parameters)
  m = layout.index(method.name)
  where = f'tensor {output.name!r}: '
  if m is None or layout.methods[m] is not method:
    raise ValueError(
      f'{where}{method.name} ({method.semantics}) is none of '
      f'{[(one.name, one.semantics) for one in layout.methods]}'
    )
  if any(stored != output.name for _, stored in output.sources):
    raise ValueError(f'{where}made of other layers')
  if output.scale is not None or seed:
    raise ValueError(f'{where}scaled, or of masks with the seed {seed}')
  models = [model for model, _ in output.sources]
  unknown = set(models) - {*layout.experts, layout.base_model}
  if unknown:
    raise ValueError(f'{where}of {sorted(unknown)}, not among the models')
  if method.name == PICK:
    if values['scale'] != (1.0,):
      raise ValueError(f'{where}scaled by {values["scale"]}')
    return _Merge(m, (*layout.experts, layout.base_model).index(models[0]), {})
  if layout.base_model in models:
    raise ValueError(f'{where}the base is merged like an expert')
  at = [layout.experts.index(model) for model in models]
  if method.name == PAIR:
    return _arc(layout, m, at, float(values['t']))
  if at != list(range(len(layout.experts))):
    if method.facts or len(set(at)) < len(at):
      raise ValueError(f'{where}of {models}, not of {list(layout.experts)}')
    for parameter in method.parameters:
      if parameter.per_expert:
        spread = [0.0] * len(layout.experts)
        for k, value in zip(at, values[parameter.name], strict=True):
          spread[k] = value
        values[parameter.name] = tuple(spread)
  numbers = {
    name: np.atleast_1d(np.asarray(value, np.float32))
    for name, value in values.items()
  }
  weights = numbers.get('weight')
  ratios = m in layout.scale_free and not layout.knotted
  if ratios and weights is not None and weights.max() > 0:
    block = layout.block(m, 'weight')
    top = min(1.0, block.high) if block is not None else 1.0
    numbers['weight'] = weights / weights.max() * np.float32(top)
  return _Merge(m, 0, numbers)


def _arc(layout: Layout, m: int, at: list[int], t: float) -> _Merge:
  first, second = at
  if second < first:
    first, second, t = second, first, 1.0 - t
  pairs = layout.pairs.tolist()
  return _Merge(m, pairs.index([first, second]), {'t': np.asarray([t])})


def _differ(layout: Layout, have: _Merge, want: _Merge) -> str | None:
  """What is not the same, None where all is."""
  if have.method != want.method:
    method = layout.methods[want.method].name
    return f'{method} is not free there; others of its unit use another method'
  if have.option != want.option and not _same_end(layout, have, want):
    return 'the model or the pair is not free there'
  if have.option != want.option:
    return None
  weights = want.numbers.get('weight')
  for name, value in want.numbers.items():
    off = np.abs(value - have.numbers[name])
    if name == 'density' and weights is not None:
      off = np.where(weights == 0, 0.0, off)
    if off.max() > _STEP:
      return (
        f'{name} is {value.tolist()}, the nearest here '
        f'{have.numbers[name].tolist()}'
      )
  return None


def _same_end(layout: Layout, have: _Merge, want: _Merge) -> bool:
  """Whether two arcs are at the same one of the experts."""
  if layout.methods[have.method].name != PAIR:
    return False
  ends = []
  for one in (have, want):
    t = float(one.numbers['t'][0])
    if t not in (0.0, 1.0):
      return False
    ends.append(layout.pairs[one.option][int(t)])
  return ends[0] == ends[1]
