"""Scores, search log and candidates of an invented search, for the tests."""

import functools
import pathlib

import numpy as np

from automerge_jax.report import summary
from automerge_jax.search import contest, foresight, objectives, statistics
from tests import tiny_suite

TASKS = ('movie', 'sarcasm', 'election', 'reuters')
SIZES = {'search': 100, 'select': 200, 'heldout': 1000}
RATES = {
  'base': (0.52, 0.50, 0.55, 0.31),
  'expert:movie': (0.83, 0.56, 0.61, 0.42),
  'expert:sarcasm': (0.58, 0.87, 0.66, 0.45),
  'expert:election': (0.57, 0.58, 0.94, 0.49),
  'expert:reuters': (0.53, 0.52, 0.60, 0.95),
  'uniform': (0.71, 0.72, 0.84, 0.81),
  'task_arithmetic': (0.75, 0.77, 0.88, 0.86),
  'ties': (0.74, 0.75, 0.87, 0.85),
  'modelwise': (0.76, 0.79, 0.87, 0.88),
  'merged': (0.79, 0.82, 0.91, 0.925),
}


def scores(rates=None, sizes=None, seed=0):
  """Item scores whose hard items are hard for every model."""
  rng = np.random.default_rng(seed)
  tasks, result = {}, {}
  for split, size in (sizes or SIZES).items():
    tasks[split] = np.repeat(np.arange(len(TASKS)), size)
    ease = rng.random(len(tasks[split]))
    result[split] = {}
    for name, rate in (rates or RATES).items():
      noise = rng.normal(0, 0.05, len(ease))
      margin = np.asarray(rate)[tasks[split]] - ease + noise
      result[split][name] = {
        'score': (margin > 0).astype(np.float32),
        'log_likelihood': -np.log1p(np.exp(-6 * margin)).astype(np.float32),
      }
  return tasks, result


def search_log(generations=14, seed=0):
  """One row a generation and one point a candidate of a rising search."""
  rng = np.random.default_rng(seed)
  log, points, best = [], [], 0.0
  for g in range(generations):
    center = 0.86 - 0.16 * np.exp(-g / 4)
    means = []
    for index in range(16):
      rung = int(index < 6)
      offset = rng.normal(0, 0.025 if rung else 0.04)
      tilt = rng.normal(0, 0.03, len(TASKS))
      row = np.clip(center + offset + tilt + [-0.06, -0.03, 0.04, 0.05], 0, 1)
      means.append(row.mean())
      points.append(
        {
          'generation': g,
          'rung': rung,
          'items': 400 if rung else 160,
          'scores': dict(zip(TASKS, row.tolist(), strict=True)),
          'mean': float(row.mean()),
        }
      )
    best = max(best, *means[:6])
    items = (g + 1) * (6 * 400 + 10 * 160)
    log.append(
      {
        'generation': g,
        'candidates': 16 * (g + 1),
        'evaluations': 22 * (g + 1),
        'items': items,
        'full_evaluations': items / 400,
        'failures': int(g > 8),
        'best': max(means[:6]),
        'mean': float(np.mean(means)),
        'incumbent': best,
      }
    )
  return log, points


def coefficients(experts=4, layers=6):
  """A weight a layer and component; the stem has only one."""
  rng = np.random.default_rng(3)
  values = []
  for _ in range(experts):
    weights = np.clip(rng.normal(0.4, 0.25, (4, layers)), 0, 1).tolist()
    weights[0] = weights[0][:1] + [None] * (layers - 1)
    values.append(weights)
  return {
    'parameter': 'weight',
    'experts': list(TASKS[:experts]),
    'components': ['stem', 'attention', 'mlp', 'rest'],
    'layers': [str(layer) for layer in range(layers)],
    'values': values,
  }


@functools.cache
def extras(seed=0):
  """What a search tells beside its scores: plan, spending, choice, gaps."""
  rng = np.random.default_rng(seed)
  rates = [RATES['merged'], *[np.asarray(RATES['merged']) - 0.01] * 4]
  grid = [np.asarray(RATES['task_arithmetic']) - d for d in (0, 0.02, 0.05)]
  tasks = np.repeat(np.arange(len(TASKS)), SIZES['select'])
  ease = rng.random(len(tasks))
  ours, theirs = (
    np.stack([np.asarray(r)[tasks] + rng.normal(0, 0.05, len(ease)) for r in g])
    > ease
    for g in (rates, grid)
  )
  best = [int(statistics.task_mean(g, tasks).argmax()) for g in (ours, theirs)]
  held = np.repeat(np.arange(len(TASKS)), SIZES['heldout'])
  fresh = rng.random(len(held)) < np.asarray(RATES['merged'])[held]
  parts, part_tasks = [], []
  for size, bonus in ((20, 0.05), (30, 0.02), (50, 0.01)):
    part_tasks.append(np.repeat(np.arange(len(TASKS)), size))
    rate = np.asarray(RATES['merged'])[part_tasks[-1]] + bonus
    parts.append((rng.random(len(rate)) < rate).astype(float))
  rungs = contest.by_rung(parts, part_tasks, fresh.astype(float), held, 0)
  chosen = {'recipe_hash': '3f9a', 'origin': 'search', 'chosen': True}
  rows = [chosen | {'rungs': rungs}]
  for i in range(3):
    moved = [row | {'gap': row['gap'] + 0.004 * (i - 1)} for row in rungs]
    other = {'recipe_hash': f'{i}e', 'origin': 'search', 'chosen': False}
    rows.append(other | {'rungs': moved})
  settings = tiny_suite.settings(
    pathlib.Path('none'),
    tasks=TASKS,
    experts={task: pathlib.Path(task) for task in TASKS},
    rungs=(20, 50, 100),
    promote=(),
    select=SIZES['select'],
    heldout=SIZES['heldout'],
  )
  return {
    'plan': foresight.foresee(settings, TASKS, starts=6, budget=40_000),
    'spending': {
      'rungs': [
        {
          'items': 20,
          'completed': 150,
          'stopped': 46,
          'failed': 4,
          'scored': 13_800,
        },
        {
          'items': 50,
          'completed': 38,
          'stopped': 9,
          'failed': 0,
          'scored': 5_200,
        },
        {
          'items': 100,
          'completed': 12,
          'stopped': 3,
          'failed': 0,
          'scored': 2_700,
        },
      ],
      'items_saved': 3_400,
      'gradient_items': 9_600,
      'failures': {'hidden states are not finite': 3, 'out of memory': 1},
    },
    'screening': [
      {
        'generation': g,
        'correlation': None if g == 2 else round(0.7 - 0.08 * g, 2),
        'on': g < 8,
      }
      for g in range(2, 13)
    ],
    'contest': contest.hold(
      ours.astype(float), theirs.astype(float), tasks, (best[0], best[1]), 0
    ),
    'generalisation': {'finalists': rows, 'chosen': rungs},
  }


# What members of a front have in each task; the second is picked.
MEMBERS = (
  (0.82, 0.74, 0.90, 0.87),
  (0.79, 0.82, 0.91, 0.925),
  (0.76, 0.85, 0.89, 0.91),
  (0.75, 0.79, 0.93, 0.94),
)


def front(named, constraints=None, members=MEMBERS, **changes):
  """A whole summary with a front over the named objectives."""
  rates = RATES | {f'front:{i}': rate for i, rate in enumerate(members)}
  rows = [
    {
      'name': f'front:{i}',
      'recipe_hash': f'{i}0ffee',
      'picked': i == 1,
      'why': 'knee',
      'select': {},
    }
    for i in range(len(members))
  ]
  goals = objectives.read(TASKS, 'accuracy', named, constraints, 'movie')
  return build(rates, **{'goals': goals, 'front': rows, **changes})


def program(depth=9, layers=6, names=TASKS):
  """A stack of moved, repeated, scaled and merged layers."""
  rng = np.random.default_rng(5)
  rows = []
  for position in range(depth):
    layer = int(
      np.clip(position * layers / depth + rng.normal(0, 0.8), 0, layers - 1)
    )
    several = position % 4 == 3
    rows.append(
      {
        'sources': [layer],
        'models': list(names[:2])
        if several
        else [(*names, 'base')[position % (len(names) + 1)]],
        'methods': ['linear' if several else 'passthrough'],
        'scales': [round(float(rng.uniform(0.7, 1.3)), 2)]
        if position % 2
        else [],
      }
    )
  return {'depth': depth, 'of': layers, 'layers': rows}


def build(rates=None, sizes=None, draws=1000, **changes):
  """A whole summary."""
  tasks, result = scores(rates, sizes)
  log, _ = search_log()
  arguments = {
    'metrics': dict.fromkeys(TASKS, 'accuracy'),
    'parents': {task: task for task in TASKS},
    'tasks': tasks,
    'scores': result,
    'log': log,
    'seed': 0,
    'method': 'task_arithmetic',
    'space': 'layerwise',
    'objective': 'accuracy',
    'recipe_hashes': {'merged': '3f9a1c0b7d22', 'task_arithmetic': 'aa01'},
    'finalists': [
      {
        'recipe_hash': '3f9a1c0b7d22',
        'origin': 'distribution mean',
        'search': 0.86,
        'select': 0.858,
      },
      {
        'recipe_hash': '77b0e1f2a9c4',
        'origin': 'best scored',
        'search': 0.873,
        'select': 0.851,
      },
    ],
    'coefficients': coefficients(),
    'environment': {
      'seconds': {
        'load': 2.1,
        'compile': 14.2,
        'search': 96.4,
        'select': 11.0,
        'heldout': 21.9,
        'export': 3.2,
      },
      'peak_memory_mb': 1432.5,
      'overhead_fraction': 0.041,
      'processor': 'an invented processor, 2 cores',
      'versions': {'jax': '0.12.0', 'python': '3.13.0'},
      'command': (
        'python -m experiments.search --config=configs/quickstart.py '
        '--workdir=runs/quickstart'
      ),
    },
    'draws': draws,
  }
  return summary.build(**{**arguments, **changes})
