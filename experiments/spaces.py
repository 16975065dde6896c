"""Every kind of search on the encoder suite, beside hand-made merges.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.spaces --workdir=runs/encoder_suite \
    --out=results/spaces.json

Runs the searches of configs/spaces.py one after the other and writes what their
merges score on held-out items. Finished searches are read back.
"""

import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from absl import app, flags

from automerge_jax import pipeline
from automerge_jax.models import registry
from automerge_jax.search import environment, statistics
from automerge_jax.spaces import published, published_depthwise
from configs import spaces
from experiments import choices, spaces_plot, startup, suites

SEARCHES = (
  'layerwise',
  'depthwise',
  'layerwise_depthwise',
  'pruning',
  'front',
)
BASELINES = ('task_arithmetic', 'ties', 'uniform', 'base')


def run(
  workdir: pathlib.Path, names: Sequence[str], seed: int, command: str
) -> dict:
  """The content of the results file."""
  runs, scores = {}, {}
  known: list[pathlib.Path] = []
  for name in names:
    config = spaces.get_config(name)
    config.experts, config.seed = str(workdir / 'experts'), seed
    place = workdir / 'spaces' / f'{name}{seed}'
    first = place / choices.FUSION
    if 'then' in config and 'layerwise' in runs and not first.exists():
      place.mkdir(parents=True, exist_ok=True)
      first.symlink_to(pathlib.Path('..') / f'layerwise{seed}')
    for settings, folder in choices.stages(config, place):
      runs[name] = suites.finished(folder) or pipeline.run(
        settings, folder, command, known
      )
      known.append(folder)
      scores[name] = suites.held_out(folder, settings, runs[name])
    print(f'{name}: {runs[name]["verdict"]}', flush=True)
  return figures(runs, scores, seed) | {'command': command}


def figures(runs: dict, scores: dict, seed: int) -> dict:
  """Held-out means with intervals, by search."""
  first = next(iter(runs))
  task = scores[first]['task']
  tasks, parents = runs[first]['tasks'], runs[first]['parents']
  own = np.choose(
    task, [scores[first][f'expert:{parents[name]}'] for name in tasks]
  )
  models = {name: found['merged'] for name, found in scores.items()}
  models |= {name: scores[first][name] for name in BASELINES}
  models['experts'] = own
  values: dict[str, Any] = {}
  intervals: dict[str, Any] = {}

  def put(name: str, estimate: statistics.Estimate) -> None:
    values[name] = estimate.value
    intervals[name] = [estimate.low, estimate.high]

  for name, model in models.items():
    put(
      f'{name}_heldout_mean', statistics.mean_bootstrap(model, task, seed=seed)
    )
    for index, of in enumerate(tasks):
      values[f'{name}_heldout_{of}'] = float(model[task == index].mean())
  for name, result in runs.items():
    put(
      f'{name}_minus_task_arithmetic',
      statistics.paired_bootstrap(
        models[name], models['task_arithmetic'], task, seed=seed
      ),
    )
    for key in ('candidates', 'full_evaluations', 'items'):
      values[f'{name}_{key}'] = result['search'][key]
    values[f'{name}_search_s'] = result['environment']['search_seconds'][
      'total'
    ]
  if 'front' in runs:
    _put_front(runs['front']['front'], values, put)
  values |= published_variables() | {'heldout_items': len(task)}
  return {
    'environment': environment.describe(),
    'figures': values,
    'intervals': intervals,
    'limits': {},
    'seeds': [seed],
  }


def _put_front(
  front: dict,
  values: dict[str, Any],
  put: Callable[[str, statistics.Estimate], None],
) -> None:
  """The members, and what their front gains in volume; see the report."""

  def estimate(cell: dict, value: str = 'value') -> statistics.Estimate:
    return statistics.Estimate(cell[value], cell['low'], cell['high'])

  values['front_members'] = len(front['members'])
  values['front_volume'] = front['volume']['front']
  values['others_volume'] = front['volume']['others']
  put('front_volume_gain', estimate(front['volume'], 'difference'))
  for row in front['members']:
    for task, cell in row['objectives'].items():
      name = row['name'].replace(':', '_')
      put(f'{name}_heldout_{task}', estimate(cell))


def published_variables() -> dict[str, int]:
  """Variables of the published layouts for 40 layers and three models."""
  config = {
    'model_type': 'llama',
    'hidden_size': 8,
    'intermediate_size': 8,
    'num_attention_heads': 1,
    'num_hidden_layers': 40,
    'vocab_size': 8,
  }
  stored = ['model.embed_tokens.weight', 'lm_head.weight']
  family = registry.from_config(config, stored)
  models = ('lm', 'math', 'code')
  fusion = published.space(family, models, 'base', layer_granularity=10)
  stacks = published_depthwise.space(family, models, 'base', layers=50)
  return {
    'published_lfs_variables': len(fusion.names),
    'published_dis_variables': len(stacks.names),
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  given = flags.FLAGS
  out, names = pathlib.Path(given.out), given.searches
  command = (
    'python -m experiments.spaces --workdir=runs/encoder_suite '
    f'--searches={",".join(names)} --seed={given.seed} '
    f'--out=results/{out.name}'
    + (f' --plot=docs/{pathlib.Path(given.plot).name}' if given.plot else '')
  )
  results = run(pathlib.Path(given.workdir), names, given.seed, command)
  out.write_text(json.dumps(results, indent=2) + '\n')
  if given.plot:
    spaces_plot.draw(results, pathlib.Path(given.plot))
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  flags.DEFINE_string('workdir', None, 'Holds experts/.', required=True)
  flags.DEFINE_list('searches', list(SEARCHES), 'Kinds of search.')
  flags.DEFINE_integer('seed', 0, 'Of the searches.')
  flags.DEFINE_string('out', None, 'The results file.', required=True)
  flags.DEFINE_string('plot', None, 'A picture of them, SVG or PNG.')
  app.run(main)
