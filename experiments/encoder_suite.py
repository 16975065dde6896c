"""Does layer-wise search beat hand-made merges? Three seeds, four experts.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.encoder_suite --workdir=runs/encoder_suite

Runs the layer-wise and the model-wise search with each seed, all within the
same budget, and writes results/encoder_suite.json. Everything is resumable:
finished searches are read back.
"""

import json
import pathlib

import numpy as np
from absl import app, flags

from automerge_jax import pipeline
from automerge_jax.search import environment, statistics
from configs import encoder_suite, searches
from experiments import choices, startup, suites

WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Holds experts/; searches go below it.', required=True
)
SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of the searches.')
OUT = flags.DEFINE_string(
  'out', 'results/encoder_suite.json', 'The results file.'
)
QUICKSTART = flags.DEFINE_string(
  'quickstart',
  'results/quickstart.json',
  'Times of the quickstart, from experiments/bench/quickstart.py.',
)
_SPACES = {'lfs': searches.layerwise, 'modelwise': searches.modelwise}


def config_of(kind: str, seed: int, workdir: pathlib.Path):
  """The full suite with one of the searches."""
  config = encoder_suite.get_config()
  config.seed = seed
  config.experts = str(workdir / 'experts')
  config.search = _SPACES[kind]()
  if (kind, seed) != ('lfs', 0):  # tuned TIES does not depend on the search
    config.search.ties_scales = config.search.ties_densities = ()
  return config


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  workdir = pathlib.Path(WORKDIR.value)
  seeds = [int(seed) for seed in SEEDS.value]
  runs, scores = {}, {}
  for seed in seeds:
    for kind in _SPACES:
      folder = workdir / kind / f'seed{seed}'
      settings = choices.settings(config_of(kind, seed, workdir))
      command = f'python -m experiments.encoder_suite --workdir={workdir}'
      known = [workdir / k / f'seed{s}' for k, s in runs]
      runs[kind, seed] = suites.finished(folder) or pipeline.run(
        settings, folder, command, known
      )
      scores[kind, seed] = suites.held_out(folder, settings, runs[kind, seed])
      print(f'{kind}, seed {seed}: {runs[kind, seed]["verdict"]}', flush=True)
  results = figures(seeds, runs, scores)
  quickstart = pathlib.Path(QUICKSTART.value)
  if quickstart.is_file():
    results['figures'] |= json.loads(quickstart.read_text())['figures']
  out = pathlib.Path(OUT.value)
  out.parent.mkdir(parents=True, exist_ok=True)
  out.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results['figures']))


def figures(seeds, runs, scores) -> dict:
  """The content of the results file."""
  first = scores['lfs', seeds[0]]
  task = first['task']

  def rows(kind: str, name: str = 'merged') -> np.ndarray:
    return np.stack([scores[kind, seed][name] for seed in seeds])

  tasks = runs['lfs', seeds[0]]['tasks']  # in the order that `task` indexes
  own = np.choose(task, [first[f'expert:{name}'] for name in tasks])
  models = {
    'lfs': rows('lfs').mean(0),
    'modelwise': rows('modelwise').mean(0),
    'task_arithmetic': first['task_arithmetic'],
    'ties': first['ties'],
    'tsv_m': first['tsv_m'],
    'uniform': first['uniform'],
    'experts': own,
    'base': first['base'],
  }
  values, intervals = {}, {}
  for name, correct in models.items():
    estimate = statistics.mean_bootstrap(correct, task, seed=0)
    values[f'{name}_heldout_mean'] = estimate.value
    intervals[f'{name}_heldout_mean'] = [estimate.low, estimate.high]
  gap = statistics.gap_closed(
    rows('lfs'), first['task_arithmetic'], own, task, seed=0
  )
  values |= {'gap_closed': gap.value, 'gap_closed_low': gap.low}
  intervals['gap_closed'] = [gap.low, gap.high]
  for name in ('task_arithmetic', 'ties', 'tsv_m', 'uniform', 'modelwise'):
    estimate = statistics.paired_bootstrap(
      models['lfs'], models[name], task, seed=0
    )
    values[f'lfs_minus_{name}'] = estimate.value
    intervals[f'lfs_minus_{name}'] = [estimate.low, estimate.high]
  for seed in seeds:
    values[f'lfs_heldout_mean_seed{seed}'] = statistics.task_mean(
      rows('lfs')[seeds.index(seed)], task
    ).item()
  timed = [run['environment']['search_seconds'] for run in runs.values()]
  compiled = sum(t['compilation'] for t in timed)
  total = sum(t['total'] for t in timed) - compiled
  busy = sum(
    t.get(kind, 0.0)
    for t in timed
    for kind in ('evaluation', 'gradient', 'gate')
  )
  values['search_overhead_fraction'] = (total - busy) / total
  values['candidates'] = max(r['search']['candidates'] for r in runs.values())
  values['full_evaluations'] = max(
    r['search']['full_evaluations'] for r in runs.values()
  )
  values['peak_memory_mb'] = max(
    run['environment']['peak_memory_mb'] for run in runs.values()
  )
  return {
    'command': 'python -m experiments.encoder_suite '
    '--workdir=runs/encoder_suite',
    'environment': environment.describe(),
    'figures': values,
    'intervals': intervals,
    'limits': {
      'gap_closed': 1.0,  # every task as good as by its own expert
      'search_overhead_fraction': 0.0,
    },
    'seeds': seeds,
  }


if __name__ == '__main__':
  app.run(main)
