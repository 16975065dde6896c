"""Layer-wise search on a suite of experts, beside hand-made merges.

  python -m experiments.finetune --config=configs/domain_suite.py \
    --workdir=runs/domain_suite
  python -m experiments.suites --config=configs/domain_suite.py \
    --workdir=runs/domain_suite --out=results/domain_suite.json

Runs the search of the config with each seed and writes what the merges, the
experts and the base score on held-out items. Finished searches are read back.
"""

import json
import pathlib

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from automerge_jax import pipeline
from automerge_jax.search import environment, statistics
from automerge_jax.search import job as jobs
from automerge_jax.search.ledger import Ledger
from experiments import choices, startup

MODELS = (
  'lfs',
  'task_arithmetic',
  'ties',
  'tsv_m',
  'uniform',
  'experts',
  'base',
)


def run(config, workdir: pathlib.Path, seeds: list[int], command: str) -> dict:
  """The content of the results file.

  Args:
    config: a suite with a search; its experts are in `workdir`.
    workdir: of the suite; searches go below it.
    seeds: of the searches.
    command: how to make the file again.
  """
  config.experts = str(workdir / 'experts')
  runs, scores = [], []
  for seed in seeds:
    config.seed = seed
    if seed != seeds[0]:  # tuned TIES does not depend on the search
      config.search.ties_scales = config.search.ties_densities = ()
    folder = workdir / 'lfs' / f'seed{seed}'
    settings = choices.settings(config)
    known = [workdir / 'lfs' / f'seed{s}' for s in seeds[: len(runs)]]
    result = finished(folder) or pipeline.run(settings, folder, command, known)
    runs.append(result)
    scores.append(held_out(folder, settings, result))
    print(f'seed {seed}: {result["verdict"]}', flush=True)
  return figures(seeds, runs, scores) | {'command': command}


def finished(folder: pathlib.Path) -> dict | None:
  """The summary of a search that is done, with the times that it took."""
  path = folder / 'summary.json'
  return json.loads(path.read_text()) if path.is_file() else None


def held_out(folder: pathlib.Path, settings, result) -> dict[str, np.ndarray]:
  """0/1 scores of every model on the held-out items, from a run's ledger."""
  job = jobs.load(settings)
  keys = {
    name: model['recipe_hash'] or name.removeprefix('expert:')
    for name, model in result['models'].items()
  }
  task = np.repeat(np.arange(len(settings.tasks)), settings.heldout)
  found = {'task': task}
  with Ledger(folder / 'ledger.sqlite') as ledger:
    for name, key in keys.items():
      scores = ledger.scores(
        key, f'heldout/{job.setting}', settings.tasks, task
      )
      if scores is None or scores.score is None:
        raise RuntimeError(f'{folder} has no held-out scores of {name}')
      found[name] = scores.score
  return found


def figures(seeds, runs, scores) -> dict:
  """Means, intervals and what the searches cost."""
  first, task = scores[0], scores[0]['task']
  tasks, parents = runs[0]['tasks'], runs[0]['parents']
  lfs = np.stack([one['merged'] for one in scores])
  own = np.choose(task, [first[f'expert:{parents[name]}'] for name in tasks])
  models = {'lfs': lfs.mean(0), 'experts': own} | {
    name: first[name] for name in MODELS if name in first
  }
  values, intervals = {}, {}

  def put(name: str, estimate: statistics.Estimate) -> None:
    values[name] = estimate.value
    intervals[name] = [estimate.low, estimate.high]

  for name in (name for name in MODELS if name in models):
    put(
      f'{name}_heldout_mean',
      statistics.mean_bootstrap(models[name], task, seed=0),
    )
    for index, of in enumerate(tasks):
      mine = task == index
      values[f'{name}_heldout_{of}'] = float(models[name][mine].mean())
  for name in ('task_arithmetic', 'ties', 'tsv_m', 'uniform', 'experts'):
    if name not in models:
      continue  # tuned where the config has a grid
    put(
      f'lfs_minus_{name}',
      statistics.paired_bootstrap(models['lfs'], models[name], task, seed=0),
    )
  gap = statistics.gap_closed(lfs, first['task_arithmetic'], own, task, seed=0)
  put('gap_closed', gap)
  for seed, row in zip(seeds, lfs, strict=True):
    values[f'lfs_heldout_mean_seed{seed}'] = float(
      statistics.task_mean(row, task)
    )
  for name in ('candidates', 'full_evaluations', 'items'):
    values[name] = max(one['search'][name] for one in runs)
  values['heldout_items'] = len(task)
  values['search_s'] = max(
    one['environment']['search_seconds']['total'] for one in runs
  )
  values['peak_memory_mb'] = max(
    one['environment']['peak_memory_mb'] for one in runs
  )
  return {
    'environment': environment.describe(),
    'figures': values,
    'intervals': intervals,
    'limits': {'gap_closed': 1.0},
    'seeds': list(seeds),
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  given = flags.FLAGS
  out = pathlib.Path(given.out)
  place = config_flags.get_config_filename(flags.FLAGS['config'])
  name = pathlib.Path(place).stem
  command = (
    f'python -m experiments.suites --config=configs/{name}.py '
    f'--workdir=runs/{name} --seeds={",".join(given.seeds)} '
    f'--out=results/{name}.json'
  )
  seeds = [int(seed) for seed in given.seeds]
  results = run(given.config, pathlib.Path(given.workdir), seeds, command)
  out.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'Suite with its search.')
  flags.DEFINE_string('workdir', None, 'Holds experts/.', required=True)
  flags.DEFINE_list('seeds', ['0', '1', '2'], 'Seeds of the searches.')
  flags.DEFINE_string('out', None, 'The results file.', required=True)
  flags.mark_flag_as_required('config')
  app.run(main)
