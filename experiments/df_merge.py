"""Does dynamic Fisher weighting beat what is simpler at the same cost?

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite  # and the domain and LM suites likewise
  python -m experiments.df_merge

The claims of arXiv 2504.18992 at a small scale: the searches of
configs/df_merge.py, hand-made merges tuned on select items, the experts, and
one model fine-tuned on all tasks, all on the same held-out items; ablations of
the published search; and what a step costs. What is finished is kept in
results/df_merge and read back, so suites, parts, searches and seeds can be run
one by one; the results file has those that are asked for, `--seeds=1,3,1` the
first so many of each suite.
"""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

from absl import app, flags

from automerge_jax import trees
from automerge_jax.search import environment
from configs import df_merge
from experiments import (
  df_merge_figures,
  df_merge_parts,
  df_merge_plot,
  df_merge_runs,
  startup,
)
from experiments.claims_figures import Figures

_CURVES = ('df_merge_ei', 'df_merge_ucb', 'gta_bo', 'random_search')
_COMPARED = ('searches', 'hand_made')
_PARTS = (*_COMPARED, 'ablations', 'cost')
_WHOLE = {
  'suites': tuple(df_merge.SUITES),
  'parts': _PARTS,
  'searches': df_merge.SEARCHES,
  'seeds': (str(max(map(len, df_merge.SEEDS.values()))),),
}
_TOLD = {
  'suites': 'Whose experts.',
  'parts': 'Without searches and hand_made there is no results file.',
  'searches': 'Of configs/df_merge.py.',
  'seeds': 'How many, of each suite if several.',
}


def check(name: str, given: Sequence[str], valid: Sequence[str]) -> None:
  """Raises ValueError naming a word that is not among the valid ones."""
  for word in given:
    if word not in valid:
      raise ValueError(
        f'--{name} holds {word!r}' + trees.nearest(word, list(valid))
      )


def seeds_of(
  suites: Sequence[str], counts: Sequence[str]
) -> dict[str, list[int]]:
  """The first so many seeds of each suite; one count stands for all.

  Raises:
    ValueError: if these are not as many counts as suites, or none of a suite.
  """
  numbers = all(count.isdecimal() and int(count) for count in counts)
  if not numbers or len(counts) not in (1, len(suites)):
    raise ValueError(
      f'--seeds is {",".join(counts)!r}; expected a count above 0, or one of '
      f'each suite: {", ".join(suites)}'
    )
  each = list(counts) * (len(suites) if len(counts) == 1 else 1)
  return {
    suite: list(df_merge.SEEDS[suite][: int(count)])
    for suite, count in zip(suites, each, strict=True)
  }


def run(
  suites: Sequence[str],
  parts: Sequence[str],
  searches: Sequence[str],
  seeds: Sequence[str],
  kept: pathlib.Path,
  workdir: pathlib.Path,
  command: str,
) -> dict[str, Any]:
  """The content of the results file, of all parts that are asked for.

  Raises:
    ValueError: naming a suite, a part or a search that there is not, counts
      of seeds that do not fit, or without the search that the others are
      compared with.
  """
  check('suites', suites, list(df_merge.SUITES))
  check('parts', parts, _PARTS)
  check('searches', searches, df_merge.SEARCHES)
  if set(_COMPARED) <= set(parts) and df_merge_figures.OURS not in searches:
    raise ValueError(
      f'--searches are {",".join(searches)}; all are compared with '
      f'{df_merge_figures.OURS}: name it, too'
    )
  chosen = seeds_of(suites, seeds)
  figures, curves, best = Figures(), {}, {}
  for suite in suites:
    places = kept / suite, workdir / suite
    searched = {
      name: [
        df_merge_runs.search(suite, name, seed, *places, command)
        for seed in chosen[suite]
      ]
      for name in (searches if 'searches' in parts else ())
    }
    if 'hand_made' in parts:
      made = df_merge_parts.hand_made(suite, *places)
      best[suite] = df_merge_figures.chosen(made.told['select'])
      if searched:
        df_merge_parts.put(figures, suite, searched, made)
    if searched:
      curves[suite] = {
        name: df_merge_figures.curve(
          [found.told['values'] for found in searched[name]]
        )
        for name in _CURVES
        if name in searched
      }
    if 'ablations' in parts and suite == df_merge.ABLATED:
      df_merge_parts.ablations(figures, suite, *places, command)
    if 'cost' in parts:
      for key, value in df_merge_parts.cost(suite, places[0]).items():
        figures.values[f'{suite}_cost_{key}'] = value
  costs = [f'{suite}_cost' for suite in suites if 'cost' in parts]
  return {
    'command': command,
    'environment': environment.describe(),
    'figures': figures.values,
    'intervals': figures.intervals,
    'limits': {f'{cost}_ratio': 1.5 for cost in costs}
    | {
      f'{cost}_memory_copies': figures.values[f'{cost}_experts'] + 5
      for cost in costs
    },
    'best_hand_made': best,
    'curves': curves,
    'seeds': chosen,
  }


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  given = flags.FLAGS
  command = 'python -m experiments.df_merge'
  for name, whole in _WHOLE.items():
    chosen = getattr(given, name)
    if list(chosen) != list(whole):
      command += f' --{name}={",".join(chosen)}'
  results = run(
    given.suites,
    given.parts,
    given.searches,
    given.seeds,
    pathlib.Path(given.kept),
    pathlib.Path(given.workdir),
    command,
  )
  if not set(_COMPARED) <= set(given.parts):
    return  # there is nothing to compare
  pathlib.Path(given.out).write_text(json.dumps(results, indent=2) + '\n')
  df_merge_plot.draw(results, pathlib.Path(given.plot))
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  for name, whole in _WHOLE.items():
    flags.DEFINE_list(name, list(whole), _TOLD[name])
  flags.DEFINE_string('kept', 'results/df_merge', 'Of finished runs.')
  flags.DEFINE_string('workdir', 'runs/df_merge', 'Of searches and scores.')
  flags.DEFINE_string('out', 'results/df_merge.json', 'The results file.')
  flags.DEFINE_string('plot', 'docs/df_merge.png', 'A picture, SVG or PNG.')
  app.run(main)
