"""The hand-made merges that a search must beat, and its start points."""

from collections.abc import Sequence

import numpy as np

from automerge_jax.recipe import Recipe, Slice, Source
from automerge_jax.search.settings import Settings
from automerge_jax.types import SearchSpace

EXPLORE = 'explore'  # origin of what comes from anywhere in the space
# Methods that make something else of one model than the model itself.
_CHANGED = ('df_merge', 'star', 'tsv_m')


def _all(method: str, experts: Sequence[str], base: str | None, **parameters):
  sources = tuple(Source(name, dict(parameters)) for name in experts)
  return Recipe(method, (Slice(sources),), base_model=base)


def uniform(experts: Sequence[str]) -> Recipe:
  """The average of the experts."""
  return _all('linear', experts, None, weight=1.0)


def task_arithmetic(
  experts: Sequence[str], base: str, weights: Sequence[float]
) -> list[Recipe]:
  """One weight for all experts, for each weight of a grid."""
  return [_all('task_arithmetic', experts, base, weight=w) for w in weights]


def ties(
  experts: Sequence[str],
  base: str,
  scales: Sequence[float],
  densities: Sequence[float],
) -> list[Recipe]:
  """TIES for each pair of a scale (`lambda`) and a density."""
  return [
    Recipe(
      'ties',
      (
        Slice(tuple(Source(e, {'weight': 1.0, 'density': d}) for e in experts)),
      ),
      base_model=base,
      parameters={'lambda': scale},
    )
    for scale in scales
    for d in densities
  ]


def tsv(
  experts: Sequence[str], base: str, scales: Sequence[float]
) -> list[Recipe]:
  """TSV-Merge for each scale (`lambda`)."""
  return [
    Recipe(
      'tsv_m',
      (Slice(tuple(Source(e, {'weight': 1.0}) for e in experts)),),
      base_model=base,
      parameters={'lambda': scale},
      semantics='paper',
    )
    for scale in scales
  ]


def grids(
  experts: Sequence[str], base: str, settings: Settings
) -> dict[str, list[Recipe]]:
  """The baselines that are tuned, as grids of recipes."""
  return {
    'task_arithmetic': task_arithmetic(experts, base, settings.weights),
    'ties': ties(experts, base, settings.ties_scales, settings.ties_densities),
    'tsv_m': tsv(experts, base, settings.tsv_scales),
  }


def starts(
  space: SearchSpace, experts: Sequence[str], weights: Sequence[float]
) -> tuple[tuple[str, np.ndarray], ...]:
  """Start points of a search: each expert, the average, a grid of one weight.

  A space may bring its own. Other numbers than weights start at 1, or as near
  as their range allows; what is then not quite an expert is called `nearly` it.
  A weight that is out of range, or a point that is equal to another (average
  and grid in a space without scale), is left out.

  Args:
    space: gives names `parameter/expert/...` of its dimensions.
    experts: K names.
    weights: the grid of a weight for all experts.

  Returns:
    (origin, coefficients [D]) pairs.
  """
  if space.starts is not None:
    return space.starts
  kinds = [name.split('/')[0] for name in space.names]
  owners = [name.split('/')[1] for name in space.names]
  weights_at = np.asarray([kind in ('weight', 'score') for kind in kinds])
  by_expert = [(f'expert:{e}', {e: 1.0}) for e in experts]
  shared = [('uniform', 1.0 / len(experts))]
  shared += [(f'weight:{w:g}', w) for w in weights]
  designs = by_expert + [
    (origin, dict.fromkeys(experts, w)) for origin, w in shared
  ]
  if not weights_at.any():  # nothing tells experts apart
    designs = [('ones', {})]
  found: dict[str, tuple[str, np.ndarray]] = {}
  for origin, weight in designs:
    wanted = np.asarray(
      [
        weight.get(owner, 0.0) if kind in ('weight', 'score') else 1.0
        for kind, owner in zip(kinds, owners, strict=True)
      ],
      np.float32,
    )
    c = np.asarray(space.quantise(space.encode(wanted)), np.float32)
    missed = np.abs(c - wanted) >= 1e-3
    if not missed[weights_at].any():
      recipe = space.describe(c)
      if missed.any() or recipe.merge_method in _CHANGED:
        origin = origin.replace('expert:', 'nearly:')
      found.setdefault(repr(recipe), (origin, c))
  return tuple(found.values())


def explored(
  space: SearchSpace, count: int, seed: int, design: str = 'latin'
) -> tuple[tuple[str, np.ndarray], ...]:
  """Candidates from everywhere in the space.

  Of a Latin hypercube every candidate has another one of `count` equal parts of
  each dimension (https://doi.org/10.2307/1268522).

  Args:
    space: what is searched.
    count: number of candidates.
    seed: of the draw.
    design: 'latin', or 'uniform' for independent ones.

  Returns:
    (origin, coefficients [D]) pairs.
  """
  rng = np.random.default_rng(seed)
  rows = np.tile(np.arange(count)[:, None], (1, len(space.names)))
  if design == 'latin':
    x = (rng.permuted(rows, axis=0) + rng.random(rows.shape)) / max(count, 1)
  else:
    x = rng.random(rows.shape)
  return tuple(
    (EXPLORE, np.asarray(space.quantise(one), np.float32))
    for one in x.astype(np.float32)
  )
