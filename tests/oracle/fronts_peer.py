"""Sorting, crowding and hypervolume of random sets; runs in .venv-peers.

python fronts_peer.py INPUTS.npz OUTPUTS.npz, with `seed` and `count`

Of set I, objectives maximised: `valuesI` [P, M], `violationI` [P], `frontI`
[P] and `crowdingI` [P] without constraints (pymoo), `relationI` [P, P] with
them: 1 where a row dominates the other one, -1 where it is dominated (pymoo),
`referenceI` [M] and `volumeI` (moocore).
"""

import sys

import moocore
import numpy as np
from pymoo.operators.survival.rank_and_crowding import metrics
from pymoo.util.dominator import Dominator
from pymoo.util.nds.non_dominated_sorting import NonDominatedSorting


def record(seed: int, count: int) -> dict[str, np.ndarray]:
  draw = np.random.default_rng(seed)
  crowding = metrics.FunctionalDiversity(
    metrics.calc_crowding_distance, filter_out_duplicates=True
  )
  found = {}
  for i in range(count):
    rows, objectives = draw.integers(1, 41), draw.integers(1, 6)
    values = draw.random((rows, objectives))
    if i % 3 == 1:  # ties and equal rows
      values = np.round(4 * values) / 4
    if i % 5 == 4:
      values[:, draw.integers(objectives)] = 0.5
    broken = np.round(np.maximum(draw.normal(0, 1, rows), 0), 1)
    fronts = NonDominatedSorting().do(-values)
    level, apart = np.zeros(rows, int), np.zeros(rows)
    for number, front in enumerate(fronts):
      level[front] = number
      apart[front] = crowding.do(-values[front])
    relation = [
      [
        Dominator.get_relation(-a, -b, cva=float(c), cvb=float(d))
        for b, d in zip(values, broken, strict=True)
      ]
      for a, c in zip(values, broken, strict=True)
    ]
    reference = np.quantile(values, 0.2, axis=0)
    found |= {
      f'values{i}': values,
      f'violation{i}': broken,
      f'front{i}': level,
      f'crowding{i}': apart,
      f'relation{i}': np.array(relation, np.int8),
      f'reference{i}': reference,
      f'volume{i}': np.array(
        moocore.hypervolume(-values, ref=-reference), float
      ),
    }
  return found


def main(inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    recorded = record(int(given['seed']), int(given['count']))
  np.savez(outputs, **recorded)


if __name__ == '__main__':
  main(*sys.argv[1:])
