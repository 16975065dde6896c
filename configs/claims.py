"""The searches behind results/claims.json: one task alone, or all as a front.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
  python -m experiments.search --config=configs/claims.py:encoder/movie/lfs \
    --workdir=DIR

Behind the colon stand a suite, and one of its tasks with a kind of search, or
`front`. All four experts are merged. A search of one task sees items of that
task only, and starts from its expert, among others.
"""

import ml_collections

from configs import encoder_suite, lm_suite, searches

SUITES = {'encoder': encoder_suite, 'lm': lm_suite}
KINDS = ('lfs', 'dis', 'lfs_dis')
FRONT = 'front'
ONE_SEED = ('lm',)  # minutes a search


def _fusion(suite: str) -> ml_collections.ConfigDict:
  """Layer-wise fusion by weights, of which an expert alone is one choice."""
  if suite == 'lm':
    config = lm_suite.get_config().search
    config.candidates = 0
    config.budget = '60'
    config.population = 8
    config.gradient_steps = 20
  else:
    config = searches.layerwise('task_arithmetic')
    config.budget = '100'
    config.rungs = (50, 200)
  return config


def _programs(suite: str) -> ml_collections.ConfigDict:
  """Depth-wise integration of two thirds to one and a half times the depth."""
  config = _fusion(suite)
  config.method = ''
  config.space = 'depthwise'
  config.optimizer = 'mixed'
  config.std = 0.1
  config.gradient_steps = 0  # little of it is a number
  options = {'min_layers': 5, 'max_layers': 9, 'copies': 2, 'repeats': 1}
  if suite == 'lm':  # thirty layers, and time to evaluate few candidates
    options |= {'min_layers': 28, 'max_layers': 33}
  config.space_options = ml_collections.ConfigDict(options)
  return config


def single(suite: str, task: str, kind: str) -> ml_collections.ConfigDict:
  """All experts of a suite, searched for one task."""
  config = _suite(suite)
  experts = tuple(config.tasks)
  config.base = f'{config.experts}/base'
  config.experts = ','.join(f'{config.experts}/{name}' for name in experts)
  with config.ignore_type():
    config.tasks = task
  config.search = _programs(suite) if kind == 'dis' else _fusion(suite)
  if kind == 'lfs_dis':
    config.then = _programs(suite)
  for name in ('search', 'then'):
    if name in config:  # the question is only about the task's expert
      part = config[name]
      part.weights = (0.3,)
      part.ties_scales = part.ties_densities = part.tsv_scales = ()
      part.finalists = 8
  return config


def front(suite: str) -> ml_collections.ConfigDict:
  """Every task of a suite an objective, and the hand-made merges tuned."""
  config = _suite(suite)
  config.search = _fusion(suite)
  if suite == 'encoder':  # of singular vectors, on which most is gained
    config.search = searches.layerwise()
    config.search.budget = '100'
    config.search.optimizer = 'nsga2'
  config.search.objective = 'accuracy'
  config.search.objectives = tuple(config.tasks)
  config.search.rungs = config.search.rungs[-1:]  # experts stay in the running
  config.search.promote = ()
  config.search.gradient_objective = 'log_likelihood'
  config.search.gradient_steps = 8
  config.search.gradient_every = 3  # for each task in turn
  config.search.finalists = 24
  if suite == 'lm':
    config.search.finalists = 12
  return config


def _suite(suite: str) -> ml_collections.ConfigDict:
  config = SUITES[suite].get_config()
  config.experts = f'runs/{suite}_suite/experts'
  return config


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
  """`SUITE/TASK/KIND` or `SUITE/front`."""
  suite, *rest = (arg or '').split('/')
  if suite in SUITES and rest == [FRONT]:
    return front(suite)
  if suite in SUITES and len(rest) == 2:
    task, kind = rest
    if task in SUITES[suite].TASKS and kind in KINDS:
      return single(suite, task, kind)
  tasks = {name: list(module.TASKS) for name, module in SUITES.items()}
  raise ValueError(
    f'configs/claims.py takes SUITE/TASK/KIND or SUITE/{FRONT}, got {arg!r}; '
    f'suites and tasks: {tasks}; kinds: {", ".join(KINDS)}'
  )
