"""All optimizers on functions whose optimum is known, beside cma and pymoo.

  python -m experiments.bench.optimizers

Medians over five seeds of the lowest loss (0 at the optimum). Every search
starts from a generation drawn at random, which counts. Peers run in
.venv-peers, where that is. Writes results/optimizers.json; the last line is one
JSON object.
"""

import functools
import json
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from automerge_jax.search import environment
from automerge_jax.search.optimizers.cma_es import cma_es
from automerge_jax.search.optimizers.cma_es_large import cma_es_large
from automerge_jax.search.optimizers.gp_bo import gp_bo
from automerge_jax.search.optimizers.mixed import mixed
from automerge_jax.search.optimizers.nsga2 import nsga2
from automerge_jax.search.optimizers.random_search import random_search
from automerge_jax.types import Told
from experiments import startup
from experiments.bench import problems

_ROOT = pathlib.Path(__file__).parents[2]
_PEERS = _ROOT / '.venv-peers' / 'bin' / 'python'

_OUT = _ROOT / 'results' / 'optimizers.json'
SEEDS = 5
POPULATION = 12
OPTIMIZERS = {
  'cma_es': cma_es,
  'cma_es_large': cma_es_large,
  'mixed': mixed,
  'nsga2': nsga2,
  'gp_bo': gp_bo,
  'random_search': random_search,
}
FLOATS = {
  f'{name}_10': functools.partial(problems.floats, name, 10)
  for name in ('sphere', 'ellipsoid', 'rosenbrock', 'rastrigin')
}
TYPED = {
  'shifted_25': functools.partial(problems.shifted, 5, 4, 4),
  'conditional_28': functools.partial(problems.conditional, 4, 2, 3),
  'conditional_112': functools.partial(problems.conditional, 16, 1, 6),
}
NOISY = {
  'shifted_25_noisy': TYPED['shifted_25'],
}
GENERATIONS = 15


def losses(name: str, problem, noise: float) -> np.ndarray:
  """Lowest loss so far of each search, [SEEDS, GENERATIONS]."""
  optimizer = OPTIMIZERS[name](POPULATION, problem.space)

  def one(key):
    _, lost = problems.search(
      optimizer, problem, POPULATION, GENERATIONS, key, noise
    )
    return jax.lax.cummin(lost.min(1))

  keys = jax.random.split(jax.random.key(0), SEEDS)
  return np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys))


def asked_in(num_rows: int = 300) -> float:
  """Median seconds in which GP-BO is told N rows of 112 dimensions and asked.

  It proposes ten.
  """
  problem = TYPED['conditional_112']()
  optimizer = gp_bo(10, problem.space)
  x = jax.random.uniform(jax.random.key(0), (num_rows, 112))
  told = Told(x, jnp.arange(num_rows, dtype=float), jnp.arange(10), x[:10])
  state = optimizer.init(jax.random.key(0), told)
  seconds = []
  for i in range(6):
    begin = time.perf_counter()
    state = optimizer.tell(jax.random.key(i), told, state)
    jax.block_until_ready(optimizer.ask(jax.random.key(i), state))
    seconds.append(time.perf_counter() - begin)
  return float(np.median(seconds[1:]))


def peers() -> dict[str, float]:
  """Median losses of cma and pymoo; empty where they are not."""
  if not _PEERS.exists():
    return {}
  cases = [
    {
      'peer': peer,
      'name': name.rsplit('_', 1)[0],
      'num_dims': 10,
      'population': POPULATION,
      'generations': GENERATIONS,
      'seed': seed,
    }
    for peer in ('cma', 'pymoo')
    for name in FLOATS
    for seed in range(SEEDS)
  ]
  script = pathlib.Path(__file__).with_name('optimizers_peer.py')
  done = subprocess.run(
    [_PEERS, script],
    input=json.dumps(cases),
    capture_output=True,
    text=True,
    check=True,
  )
  answers = np.reshape(json.loads(done.stdout.splitlines()[-1]), (-1, SEEDS))
  names = [
    f'{name}_peer_{peer}' for peer in ('cma', 'pymoo') for name in FLOATS
  ]
  return dict(zip(names, np.median(answers, 1).tolist(), strict=True))


def main(argv):
  del argv
  startup.prepare()
  begin = time.perf_counter()
  figures = {'gp_bo_ask_300_rows_112_dims_s': asked_in()}
  intervals = {}
  for case, make in {**FLOATS, **TYPED, **NOISY}.items():
    problem = make()
    for name in OPTIMIZERS:
      lost = losses(name, problem, 5.0 if case.endswith('noisy') else 0.0)
      figures[f'{case}_{name}'] = float(np.median(lost[:, -1]))
      figures[f'{case}_{name}_at_96'] = float(np.median(lost[:, 7]))
      intervals[f'{case}_{name}'] = [
        float(lost[:, -1].min()),
        float(lost[:, -1].max()),
      ]
    print(
      case,
      {name: f'{figures[f"{case}_{name}"]:.3g}' for name in OPTIMIZERS},
      flush=True,
    )
  figures |= peers()
  results = {
    'command': 'python -m experiments.bench.optimizers',
    'environment': environment.describe()
    | {'total_s': round(time.perf_counter() - begin, 1)},
    'figures': {name: float(f'{v:.4g}') for name, v in figures.items()},
    'intervals': {
      name: [float(f'{v:.4g}') for v in ends]
      for name, ends in intervals.items()
    },
    'limits': {
      'loss_at_the_optimum': 0.0,
      'evaluations': POPULATION * GENERATIONS,
    },
    'seeds': list(range(SEEDS)),
  }
  _OUT.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  app.run(main)
