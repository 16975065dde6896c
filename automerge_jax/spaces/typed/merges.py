"""What a recipe does to each tensor, in a typed space's terms."""

from typing import NamedTuple

import numpy as np

from automerge_jax.merging import resolve
from automerge_jax.merging.resolve import Output
from automerge_jax.recipe import Recipe
from automerge_jax.spaces.typed.layout import Layout
from automerge_jax.spaces.typed.parameters import PAIR, PICK

_STEP = 1.1e-3  # what the grid may take off a number, densities most


class Merge(NamedTuple):
  """What happens to one tensor.

  Attributes:
    method: index of the method.
    option: of its pair or model; 0 without.
    numbers: by parameter, [K] or [1].
  """

  method: int
  option: int
  numbers: dict[str, np.ndarray]


def merges(layout: Layout, recipe: Recipe) -> dict[str, Merge]:
  """What a recipe does to each tensor, by stored name.

  Raises:
    ValueError: if the space cannot say it; naming the tensor and why.
  """
  of_name = layout.sites.of_name
  names = dict.fromkeys(recipe.models, tuple(of_name))
  made = {o.name: o for o in resolve.outputs(recipe, names)}
  if set(made) != set(of_name):
    raise ValueError('the recipe makes another number of layers')
  return {
    name: _merge(layout, output, recipe.seed) for name, output in made.items()
  }


def _merge(layout: Layout, output: Output, seed: int) -> Merge:
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
    return Merge(m, (*layout.experts, layout.base_model).index(models[0]), {})
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
  return Merge(m, 0, numbers)


def _arc(layout: Layout, m: int, at: list[int], t: float) -> Merge:
  first, second = at
  if second < first:
    first, second, t = second, first, 1.0 - t
  pairs = layout.pairs.tolist()
  return Merge(m, pairs.index([first, second]), {'t': np.asarray([t])})


def differ(layout: Layout, have: Merge, want: Merge) -> str | None:
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


def _same_end(layout: Layout, have: Merge, want: Merge) -> bool:
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
