"""Does a merge beat the expert on its own task? Do fronts dominate experts?

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.finetune --config=configs/lm_suite.py \
    --workdir=runs/lm_suite
  python -m experiments.claims

The claims of arXiv 2502.04030 at a small scale: the searches of
configs/claims.py, every task of each suite alone by LFS, DIS, and LFS followed
by DIS, and all tasks as a front; and whether what a search for movie sentiment
gains is gained on texts of other sources, too. Finished searches are read back,
so suites and kinds can be run one by one; the file is written when all of the
default ones are asked for.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from absl import app, flags

from automerge_jax import delivery
from automerge_jax.search import environment
from configs import claims
from experiments import (
  claims_figures,
  claims_plot,
  claims_runs,
  claims_sources,
  startup,
)
from experiments.claims_figures import Figures
from experiments.claims_runs import Run

_KINDS = (*claims.KINDS, claims.FRONT)
_STEPS = 500  # fewer of these are claimed


def run(
  suites: Sequence[str],
  kinds: Sequence[str],
  seeds: Sequence[int],
  workdir: pathlib.Path,
) -> dict:
  """The content of the results file, of all searches that are asked for."""
  command = (
    f'python -m experiments.claims --suites={",".join(suites)} '
    f'--seeds={",".join(map(str, seeds))}'
  )
  figures = Figures()
  for suite in suites:
    own = seeds[:1] if suite in claims.ONE_SEED else seeds
    suite_figures(figures, suite, kinds, own, workdir / suite, command)
  return {
    'command': command,
    'environment': environment.describe(),
    'figures': figures.values,
    'intervals': figures.intervals,
    'limits': {f'{suite}_most_candidates': _STEPS for suite in suites},
    'seeds': list(seeds),
  }


def suite_figures(
  figures: Figures,
  suite: str,
  kinds: Sequence[str],
  seeds: Sequence[int],
  place: pathlib.Path,
  command: str,
) -> None:
  """Runs the searches of a suite, or reads them back, and tells of them."""
  found: dict[str, dict[str, list[list[Run]]]] = {}
  for seed in seeds:
    for kind in (kind for kind in kinds if kind != claims.FRONT):
      for task in claims.SUITES[suite].TASKS:
        stages = claims_runs.single(suite, task, kind, seed, place, command)
        by_task = found.setdefault(kind, {})
        by_task.setdefault(task, []).append(stages)
  for kind, by_task in found.items():
    _put_kind(figures, suite, kind, by_task)
  if found:
    claims_figures.corrected(figures, suite, list(found))
    for task, sources in claims_sources.OTHERS.items():
      if task in claims.SUITES[suite].TASKS:
        _put_sources(figures, suite, task, sources, found, place)
  if claims.FRONT in kinds:
    run = claims_runs.front(suite, seeds[0], place, command)
    claims_figures.front(figures, suite, run.summary, run.scores)
    _put_costs(figures, f'{suite}_front', [run])
    figures.values[f'{suite}_front_experts_in_it'] = claims_runs.experts_in(run)
  figures.values[f'{suite}_most_candidates'] = max(
    value
    for key, value in figures.values.items()
    if key.startswith(f'{suite}_') and key.endswith('_candidates')
  )


def _put_kind(
  figures: Figures,
  suite: str,
  kind: str,
  by_task: Mapping[str, list[list[Run]]],
) -> None:
  """Figures of one kind of search on every task."""
  merged, experts = {}, {}
  for task, by_seed in by_task.items():
    last = [stages[-1] for stages in by_seed]
    merged[task] = np.stack([run.scores['merged'] for run in last])
    experts[task] = last[0].scores[f'expert:{task}']
    name = f'{suite}_{task}'
    figures.values[f'{name}_expert_heldout'] = float(experts[task].mean())
    _put_costs(figures, f'{name}_{kind}', by_seed[0])
    models = last[0].summary['models']
    seen = [
      models[model]['search']['tasks'][task]['accuracy']
      for model in ('merged', f'expert:{task}')
    ]
    figures.values[f'{name}_{kind}_search_minus_expert'] = seen[0] - seen[1]
  claims_figures.own_tasks(figures, f'{suite}_{{task}}{kind}', merged, experts)
  figures.values[f'{suite}_{kind}_experts_chosen'] = sum(
    claims_runs.found_by(by_seed[0]).origin == f'expert:{task}'
    for task, by_seed in by_task.items()
  )


def _put_costs(figures: Figures, name: str, stages: Sequence[Run]) -> None:
  for key, value in claims_runs.costs(stages).items():
    figures.values[f'{name}_{key}'] = value


def _put_sources(
  figures: Figures,
  suite: str,
  task: str,
  sources: Sequence[str],
  found: Mapping[str, Mapping[str, list[list[Run]]]],
  place: pathlib.Path,
) -> None:
  """Merges found for one task against its expert on items of other sources."""
  head = pathlib.Path(claims.front(suite).experts) / task
  models = {'expert': head} | {
    f'{kind}{seed}': stages[-1].folder / delivery.EXPORTED
    for kind, by_task in found.items()
    for seed, stages in enumerate(by_task[task])
  }
  scores = {
    source: claims_sources.scores(models, head, source, place / 'sources')
    for source in sources
  }
  where = np.repeat(
    np.arange(len(sources)), [len(scores[s]['expert']) for s in sources]
  )
  for source in sources:
    values = scores[source]['expert']
    figures.values[f'{suite}_{task}_expert_{source}'] = float(values.mean())
    figures.values[f'{suite}_{task}_{source}_items'] = len(values)
  for kind, by_task in found.items():
    rows = [f'{kind}{seed}' for seed in range(len(by_task[task]))]
    by_source = {
      source: np.stack([scores[source][row] for row in rows])
      for source in sources
    }
    for source, merged in by_source.items():
      expert = scores[source]['expert']
      figures.put(
        f'{suite}_{task}_{kind}_{source}_minus_expert',
        claims_figures.difference(merged, expert, np.zeros(len(expert), int)),
      )
    figures.put(
      f'{suite}_{task}_{kind}_other_sources_minus_expert',
      claims_figures.difference(
        np.concatenate(list(by_source.values()), axis=1),
        np.concatenate([scores[source]['expert'] for source in sources]),
        where,
      ),
    )


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  given = flags.FLAGS
  results = run(
    given.suites,
    given.kinds,
    [int(seed) for seed in given.seeds],
    pathlib.Path(given.workdir),
  )
  if set(given.kinds) < set(_KINDS):
    return  # some of the searches, to be continued
  pathlib.Path(given.out).write_text(json.dumps(results, indent=2) + '\n')
  claims_plot.draw(results, pathlib.Path(given.plot))
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  flags.DEFINE_list('suites', list(claims.SUITES), 'Whose experts.')
  flags.DEFINE_list('kinds', list(_KINDS), 'Kinds of search.')
  flags.DEFINE_list('seeds', ['0'], 'Of searches; lm takes the first alone.')
  flags.DEFINE_string('workdir', 'runs/claims', 'Of the searches.')
  flags.DEFINE_string('out', 'results/claims.json', 'The results file.')
  flags.DEFINE_string('plot', 'docs/claims.png', 'A picture, SVG or PNG.')
  app.run(main)
