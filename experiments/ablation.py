"""What does each part of a search pay? Four experts, equal budgets.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.ablation --workdir=runs/encoder_suite

Runs the default search and the same without gradients, and from the latter
searches with one more part added or taken away: where a climb finds the merge
that is chosen in the end, other parts change nothing, and there are spaces
without gradients. All with each seed and within the same budget of items. A
part's gain is what the search scores on held-out items with it, minus without
it. Writes results/ablation.json. Finished searches are read back.
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
BUDGET = flags.DEFINE_string('budget', '50', 'Full evaluations of each search.')
PARTS = flags.DEFINE_list('parts', None, 'Some of the parts; all by default.')
OUT = flags.DEFINE_string('out', 'results/ablation.json', 'The results file.')

DEFAULT, GRADIENT = 'default', 'gradient'
# What each part is: settings with it, and without it.
PARTS_OF = {
  'surrogate': ({'screen': 4}, {'screen': 1}),
  'fidelity': ({'rungs': (50, 200)}, {'rungs': (200,), 'promote': ()}),
  'racing': ({'race': 0.05}, {'race': 0.0}),
  'gradient': ({'gradient_steps': 16}, {'gradient_steps': 0}),
}


def config_of(seed: int, workdir: pathlib.Path, changes=()):
  """The encoder suite with the default search, changed."""
  config = encoder_suite.get_config()
  config.seed = seed
  config.experts = str(workdir / 'experts')
  config.search = searches.layerwise()
  config.search.budget = BUDGET.value
  with config.ignore_type():
    for name, value in dict(changes).items():
      config.search[name] = value
  if seed:  # tuned baselines do not depend on the search
    config.search.ties_scales = config.search.ties_densities = ()
  return config


def is_default(part: str) -> bool:
  """Whether the default search has a part."""
  have = searches.layerwise()
  return all(
    tuple(have[name]) == value
    if isinstance(value, tuple)
    # The numbers that stand for no surrogate, no race and no climb.
    else have[name] > {'screen': 1}.get(name, 0)
    for name, value in PARTS_OF[part][0].items()
  )


def other(part: str) -> dict:
  """Without the part where the default has it, else with it; no gradients."""
  changed = PARTS_OF[part][1 if is_default(part) else 0]
  return changed | PARTS_OF[GRADIENT][1]


def _folder(workdir: pathlib.Path, name: str, seed: int) -> pathlib.Path:
  """Where a search goes; the default is also that of the encoder suite."""
  place = 'lfs' if name == DEFAULT else f'ablation/{name}'
  return workdir / place / f'seed{seed}'


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  workdir = pathlib.Path(WORKDIR.value)
  seeds = [int(seed) for seed in SEEDS.value]
  parts = [p for p in PARTS.value or PARTS_OF if p]
  runs, scores = {}, {}
  for seed in seeds:
    for name in (DEFAULT, *parts):
      folder = _folder(workdir, name, seed)
      changes = {} if name == DEFAULT else other(name)
      settings = choices.settings(config_of(seed, workdir, changes))
      known = [
        done.parent
        for done in sorted(workdir.glob('*/**/seed*/summary.json'))
        if done.parent != folder
      ]
      runs[name, seed] = suites.finished(folder) or pipeline.run(
        settings, folder, f'python -m experiments.ablation {workdir}', known
      )
      scores[name, seed] = suites.held_out(folder, settings, runs[name, seed])
      print(f'{name}, seed {seed}: {runs[name, seed]["verdict"]}', flush=True)
  if set(parts) == set(PARTS_OF):
    results = figures(seeds, runs, scores)
    pathlib.Path(OUT.value).write_text(json.dumps(results, indent=2) + '\n')
    print(json.dumps(results['figures']))


def figures(seeds, runs, scores) -> dict:
  """The content of the results file."""
  first = scores[DEFAULT, seeds[0]]
  task, tasks = first['task'], runs[DEFAULT, seeds[0]]['tasks']
  own = np.choose(task, [first[f'expert:{name}'] for name in tasks])

  def rows(name: str) -> np.ndarray:
    return np.stack([scores[name, seed]['merged'] for seed in seeds])

  values, intervals = {}, {}

  def put(name: str, estimate: statistics.Estimate) -> None:
    values[name] = estimate.value
    intervals[name] = [estimate.low, estimate.high]

  for part in PARTS_OF:
    ours = rows(DEFAULT if part == GRADIENT else GRADIENT).mean(0)
    theirs = rows(part).mean(0)
    pair = (ours, theirs) if is_default(part) else (theirs, ours)
    gain = statistics.paired_bootstrap(*pair, task, seed=0)
    put(f'{part}_gain', gain)
    values[f'{part}_default'] = int(is_default(part))
    put(
      f'{part}_changed_heldout_mean', statistics.mean_bootstrap(theirs, task, 0)
    )
  put(
    'default_heldout_mean',
    statistics.mean_bootstrap(rows(DEFAULT).mean(0), task, seed=0),
  )
  for name in ('task_arithmetic', 'ties', 'tsv_m', 'uniform', 'base'):
    put(f'{name}_heldout_mean', statistics.mean_bootstrap(first[name], task, 0))
  put('experts_heldout_mean', statistics.mean_bootstrap(own, task, seed=0))
  gap = statistics.gap_closed(
    rows(DEFAULT), first['task_arithmetic'], own, task, seed=0
  )
  put('gap_closed', gap)
  values['gap_closed_low'] = gap.low
  for name in ('task_arithmetic', 'tsv_m', 'ties'):
    put(
      f'default_minus_{name}',
      statistics.paired_bootstrap(
        rows(DEFAULT).mean(0), first[name], task, seed=0
      ),
    )
  for seed, row in zip(seeds, rows(DEFAULT), strict=True):
    values[f'default_heldout_mean_seed{seed}'] = float(
      statistics.task_mean(row, task)
    )
  values['full_evaluations'] = max(
    run['search']['full_evaluations'] for run in runs.values()
  )
  values['search_s'] = max(
    run['environment']['search_seconds']['total'] for run in runs.values()
  )
  return {
    'command': 'python -m experiments.ablation --workdir=runs/encoder_suite',
    'environment': environment.describe(),
    'figures': values,
    'intervals': intervals,
    'limits': {'gap_closed': 1.0},
    'seeds': list(seeds),
  }


if __name__ == '__main__':
  app.run(main)
