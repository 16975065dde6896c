"""Our search beside its peers: same items, spaces, start points and budgets.

  python -m experiments.finetune --config=configs/tiny_suite.py \
    --workdir=runs/tiny_suite
  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  make peers
  python -m experiments.bench.search_compare

Peers are SMAC3's multi-fidelity facade and ParEGO, set as arXiv 2502.04030 has
them, CMA-ES as mergekit-evolve uses it, NSGA-II as mergenetic does, and random
search. Everything that runs evaluate goes to runs/search_compare, their curves
to results/search_compare, and beside them what functions of known optimum and
the route over the disk gave; what is there is read back, and some scenes, seeds
and solvers can be run alone, with --nowrite. The kept curves were computed with
XLA_FLAGS=--xla_cpu_multi_thread_eigen=false: more threads round otherwise.
Writes results/search_compare.json and docs/search_compare.svg; the last line is
one JSON object.
"""

import json
import pathlib
import time
from collections.abc import Callable, Sequence
from typing import Any

from absl import app, flags, logging

from automerge_jax.search import environment
from configs import compare as configs
from experiments import choices, startup
from experiments.bench import disk_route
from experiments.bench.compare import (
  curves,
  evaluated,
  figures,
  marks,
  plots,
  scene,
  synthetic,
)

WORKDIR = flags.DEFINE_string(
  'workdir', 'results/search_compare', 'Where curves of runs are kept.'
)
LOGS = flags.DEFINE_string(
  'logs', 'runs/search_compare', 'Where all that runs evaluated is kept.'
)
SCENES = flags.DEFINE_list('scenes', list(configs.SCENES), 'Of the problems.')
SEEDS = flags.DEFINE_integer('seeds', 10, 'Searches of each kind; encoder: 3.')
SOLVERS = flags.DEFINE_list('solvers', [], 'Some of the solvers; else all.')
WRITE = flags.DEFINE_bool('write', True, 'Write the results file and plots.')
OUT = flags.DEFINE_string(
  'out', 'results/search_compare.json', 'The results file.'
)
PLOT = flags.DEFINE_string('plot', 'docs/search_compare.svg', 'The picture.')

ENCODER = 'encoder'
FRONT = 'front'
OURS = {'ours': {}, 'ours_evolution': {'gradient_steps': 0}}
_COARSE = (0.1, 0.25, 0.5, 1.0)  # looks cost items, too
_FINE = tuple(round(0.05 * i, 2) for i in range(1, 21))
SYNTHETIC_SEEDS = 3
# Peers with rungs: Hyperband's, eta 3.
_RACED = ('smac', 'parego')
# Held-out accuracies that a front's volume counts from: guessing.
_WORST = (0.5, 0.5)


def solvers(name: str, settings) -> dict[str, dict[str, Any] | None]:
  """Settings that change for ours; None for peers."""
  if name == ENCODER:  # minutes a search
    return {'ours': {}} | dict.fromkeys(('smac', 'pycma', 'random'))
  ours = OURS if settings.gradient_steps else {'ours': {}}
  theirs = (
    ('parego', 'pymoo', 'random')
    if name == FRONT
    else ('smac', 'pycma', 'pymoo', 'random')
  )
  return ours | dict.fromkeys(theirs)


def shares(name: str) -> tuple[float, ...]:
  """Of the budget, at which choices are looked at."""
  return _COARSE if name == ENCODER else _FINE


def run(
  name: str, seeds: Sequence[int], chosen: Sequence[str], workdir: pathlib.Path
) -> dict[str, list[dict[str, Any]]]:
  """Curves of each solver, a row a seed; made runs are read back."""
  settings = choices.settings(configs.get_config(name))
  wanted = {
    solver: changes
    for solver, changes in solvers(name, settings).items()
    if not chosen or solver in chosen
  }
  place: scene.Scene | None = None
  judged: marks.Marks | None = None
  found: dict[str, list[dict[str, Any]]] = {}
  for solver in wanted:
    path = workdir / name / f'{solver}.json'
    found[solver] = json.loads(path.read_text()) if path.is_file() else []
  for seed in seeds:
    for solver, changes in wanted.items():
      if any(row['seed'] == seed for row in found[solver]):
        continue
      if place is None or judged is None:
        budget = float(settings.budget)
        place = scene.load(settings, budget, padded=name != ENCODER)
        judged = marks.Marks(place)
      begin = time.perf_counter()
      row = one(name, place, judged, solver, changes, seed)
      found[solver].append(row)
      path = workdir / name / f'{solver}.json'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_text(
        '[\n' + ',\n'.join(map(json.dumps, found[solver])) + '\n]\n'
      )
      taken = time.perf_counter() - begin
      logging.info(
        '%s, %s, seed %d: %s, %.0f s', name, solver, seed, _told(row), taken
      )
  return {
    solver: sorted(
      (row for row in rows if row['seed'] in seeds), key=lambda row: row['seed']
    )
    for solver, rows in found.items()
  }


def one(
  name: str,
  place: scene.Scene,
  judged: marks.Marks,
  solver: str,
  changes: dict[str, Any] | None,
  seed: int,
) -> dict[str, Any]:
  """One search and its curves."""
  kept = pathlib.Path(LOGS.value) / name / solver / f'seed{seed}.npz'
  if kept.is_file():
    log = evaluated.read(kept)
  elif changes is not None:
    log = scene.by_ours(place, seed, **changes)
  else:
    full = place.settings.rungs[-1]
    rungs = (full // 9, full // 3, full) if solver in _RACED else (full,)
    log = scene.by_peer(place, solver, rungs, seed)
  if not kept.is_file():
    evaluated.write(kept, log)
  row: dict[str, Any] = {
    'seed': seed,
    'shares': list(shares(name)),
    'evaluated': len({one.recipe for one in log}),
    'items': max(one.items for one in log),
  }
  if name == FRONT:
    return row | curves.of_front(log, judged, place.items, shares(name), _WORST)
  return row | curves.of_one(log, judged, place.items, shares(name))


def functions(workdir: pathlib.Path) -> dict[str, float]:
  """Figures of all solvers on functions of known optimum."""
  figures: dict[str, float] = {}
  for case in (*synthetic.CASES, synthetic.FRONT):
    figures |= _kept(
      workdir / 'synthetic' / f'{case}.json',
      lambda case=case: synthetic.run(range(SYNTHETIC_SEEDS), [case]),
    )['figures']
  return figures


def _kept(path: pathlib.Path, make: Callable[[], dict]) -> dict:
  """What is in a file, made and written where there is none."""
  if not path.is_file():
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(make()) + '\n')
  return json.loads(path.read_text())


def _told(row: dict[str, Any]) -> str:
  values = row.get('heldout', row.get('hypervolume'))
  return (
    f'{values[1]:.4f} at {row["shares"][1]}, {values[-1]:.4f} at the end, '
    f'{row["evaluated"]} merges'
  )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  workdir = pathlib.Path(WORKDIR.value)
  found = {}
  for name in SCENES.value:
    seeds = range(min(SEEDS.value, 3) if name == ENCODER else SEEDS.value)
    found[name] = run(name, seeds, SOLVERS.value, workdir)
  if not WRITE.value:
    return
  route = _kept(workdir / 'disk_route.json', lambda: disk_route.run(repeats=3))
  results = figures.results(found, functions(workdir), route)
  results['environment'] = environment.describe()
  pathlib.Path(OUT.value).write_text(json.dumps(results, indent=2) + '\n')
  plots.draw(found, pathlib.Path(PLOT.value))
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  app.run(main)
