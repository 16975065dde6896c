"""The results file of a comparison, from the curves of its runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.bench.compare import curves

Rows = Sequence[Mapping[str, Any]]
TINY = ('layerwise', 'published', 'depthwise')
OURS = ('ours', 'ours_evolution')
PEERS = ('smac', 'pycma', 'pymoo', 'random')
# What stands for a peer's score that was never reached within the budget.
NEVER = 2.0
_TENTH = 0.1
# Below what final scores are not told apart by 4,000 held-out items.
_MARGIN = 0.003
_NEAR = '_less_margin'


def results(
  found: Mapping[str, Mapping[str, Rows]],
  functions: Mapping[str, float],
  route: Mapping[str, Any],
) -> dict[str, Any]:
  """The content of the results file, but for its environment.

  Args:
    found: runs by scene and solver, in the order of seeds.
    functions: figures of `synthetic.run`.
    route: see `disk_route.run`.
  """
  values: dict[str, float] = {}
  intervals: dict[str, list[float]] = {}

  def put(name: str, rows: np.ndarray) -> None:
    """A mean over seeds with its 95% interval."""
    values[name] = round(float(rows.mean()), 4)
    intervals[name] = [round(end, 4) for end in _interval(rows)]

  for scene, by_solver in found.items():
    kind = 'hypervolume' if scene == 'front' else 'heldout'
    for solver, rows in by_solver.items():
      name = f'{scene}_{solver}'
      put(f'{name}_{kind}', _at(rows, kind, 1.0))
      put(f'{name}_{kind}_at_tenth', _at(rows, kind, _TENTH))
      put(
        f'{name}_area',
        np.asarray([curves.area(row['shares'], row[kind]) for row in rows]),
      )
  single = [name for name in found if name != 'front']
  for scene in single:
    there = found[scene]
    for peer in (peer for peer in PEERS if peer in there):
      for ours in (ours for ours in OURS if ours in there):
        put(
          f'{scene}_{ours}_minus_{peer}',
          _at(there[ours], 'heldout', 1.0) - _at(there[peer], 'heldout', 1.0),
        )
  for peer in PEERS:
    values[f'final_heldout_minus_{peer}'] = min(
      values[f'{scene}_ours_minus_{peer}']
      for scene in single
      if peer in found[scene]
    )
  values |= _fractions({scene: found[scene] for scene in TINY})
  values |= _volumes(found['front'])
  return {
    'command': 'python -m experiments.bench.search_compare',
    'figures': values | dict(functions) | dict(route['figures']),
    'intervals': intervals,
    'limits': {
      'items_fraction_to_best_peer': 0.0,
      'items_fraction_where_never_reached': NEVER,
      **route['limits'],
    },
    'seeds': [row['seed'] for row in found[single[0]]['ours']],
  }


def _at(rows: Rows, kind: str, share: float) -> np.ndarray:
  """A curve's value at a share of the budget, by seed."""
  return np.asarray([row[kind][row['shares'].index(share)] for row in rows])


def best_peer(by_solver: Mapping[str, Rows], kind: str) -> str:
  """The peer with the best final mean."""
  there = [name for name in by_solver if not name.startswith('ours')]
  return max(there, key=lambda name: _at(by_solver[name], kind, 1.0).mean())


def _fractions(found: Mapping[str, Mapping[str, Rows]]) -> dict[str, float]:
  """Share of the budget in which ours is where the best peer ends.

  Seed by seed, and the median; also for `_MARGIN` less than that.
  """
  values: dict[str, float] = {}
  every = {(ours, near): [] for ours in OURS for near in (False, True)}
  for scene, by_solver in found.items():
    peer = best_peer(by_solver, 'heldout')
    targets = _at(by_solver[peer], 'heldout', 1.0)
    for (ours, near), together in every.items():
      if ours not in by_solver:
        ours = 'ours'  # without gradients anyway
      shares = [
        min(curves.reached(row['shares'], row['heldout'], target), NEVER)
        for row, target in zip(
          by_solver[ours], targets - _MARGIN * near, strict=True
        )
      ]
      together += shares
      name = f'{scene}_{ours}_items_fraction_to_{peer}{_NEAR * near}'
      values[name] = float(np.median(shares))
  for (ours, near), shares in every.items():
    start = '' if ours == 'ours' else 'evolution_'
    name = f'{start}items_fraction_to_best_peer{_NEAR * near}'
    values[name] = float(np.median(shares))
    values[f'{start}reached_best_peer{_NEAR * near}'] = round(
      float(np.mean(np.asarray(shares) <= 1.0)), 3
    )
  return values


def _volumes(by_solver: Mapping[str, Rows]) -> dict[str, float]:
  """Ratios of hypervolumes, the median of seeds."""
  values = {}
  for ours in ('ours', 'ours_evolution'):
    for peer in ('parego', 'pymoo', 'random'):
      for share, end in ((1.0, ''), (_TENTH, '_at_tenth')):
        ratio = _at(by_solver[ours], 'hypervolume', share) / _at(
          by_solver[peer], 'hypervolume', share
        )
        name = f'hypervolume_ratio_vs_{peer}{end}'
        if ours != 'ours':
          name = f'evolution_{name}'
        values[name] = round(float(np.median(ratio)), 4)
  return values


def _interval(rows: np.ndarray, draws: int = 4000) -> tuple[float, float]:
  """Bootstrap over seeds, 95%."""
  rng = np.random.default_rng(0)
  means = rows[rng.integers(len(rows), size=(draws, len(rows)))].mean(1)
  low, high = np.quantile(means, (0.025, 0.975))
  return float(low), float(high)
