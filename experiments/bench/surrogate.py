"""How long the surrogate takes to be fitted and to foresee, and how well.

  python -m experiments.bench.surrogate

500 observations at three rungs of a shifted quadratic with noise, capacity 512;
the least of repeated calls, compilation excluded, since whatever else runs only
adds to it. The limit is what the Cholesky factors alone would take at the speed
of a matrix product. Writes results/surrogate.json; the last line is one JSON
object.
"""

import json
import pathlib
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from absl import app

from automerge_jax.search import environment, observations
from automerge_jax.search.surrogate import surrogate
from experiments import startup
from experiments.bench import problems

_OUT = pathlib.Path(__file__).parents[2] / 'results' / 'surrogate.json'
DIMS = (52, 112, 200)
ROWS, CAPACITY, STEPS = 500, 512, 20
SHARES = np.array([0.125, 0.125, 0.75])  # of the items, that each rung adds
PROPOSALS = 48


def quadratic(x: np.ndarray) -> np.ndarray:
  return -((x - 0.6) ** 2).sum(1) / len(x[0]) ** 0.5


def proposals(draw: np.random.Generator, count: int, num_dims: int):
  return np.clip(draw.normal(0.5, 0.15, (count, num_dims)), 0, 1)


def table(num_dims: int, objectives: int, seed: int = 0):
  """Observations of the quadratic, with a fifth of its deviation as noise."""
  draw = np.random.default_rng([seed, num_dims])
  x = proposals(draw, ROWS, num_dims)
  value = quadratic(x)
  rung = draw.choice(3, ROWS, p=[0.6, 0.25, 0.15])
  variance = (value.std() / 5) ** 2 / SHARES[rung]
  shape = ROWS, objectives
  noise = draw.normal(size=shape) * np.sqrt(variance)[:, None]
  rows = [
    observations.Observation(
      x[i],
      int(rung[i]),
      float(SHARES[rung[i]]),
      value[i] + noise[i],
      np.full(objectives, variance[i]),
      value[i],
    )
    for i in range(ROWS)
  ]
  return observations.table(rows, CAPACITY, num_dims, objectives)


def seconds(call: Callable, repeats: int = 15) -> float:
  """The least of repeated calls; the first does not count."""
  jax.block_until_ready(call())
  took = []
  for _ in range(repeats):
    begin = time.perf_counter()
    jax.block_until_ready(call())
    took.append(time.perf_counter() - begin)
  return min(took)


def matmul_rate() -> float:
  """Floating-point operations a second of a product of N x N matrices."""
  a = jax.random.normal(jax.random.key(0), (CAPACITY, CAPACITY))
  product = jax.jit(lambda a: a @ a)
  return 2 * CAPACITY**3 / seconds(lambda: product(a), 50)


def main(argv):
  del argv
  startup.prepare()
  begin = time.perf_counter()
  rate = matmul_rate()
  figures = {}
  for num_dims in DIMS:
    space = problems.typed([0] * num_dims)
    process = surrogate(space, STEPS)
    draw = np.random.default_rng([1, num_dims])
    x = proposals(draw, 300, num_dims)
    for objectives in (1, 3):
      rows = table(num_dims, objectives)
      name = f'{num_dims}_dims_{objectives}_objectives'
      figures[f'fit_{name}_s'] = seconds(
        lambda process=process, rows=rows: process.fit(rows)
      )
      fitted = process.fit(rows)
      some = jnp.asarray(x[:PROPOSALS], jnp.float32)
      figures[f'predict_{PROPOSALS}_{name}_s'] = seconds(
        lambda process=process, some=some, fitted=fitted: process.predict(
          some, fitted
        )
      )
      mean, _ = process.predict(x, fitted)
      found = np.corrcoef(mean[:, 0], quadratic(x))[0, 1]
      figures[f'correlation_{name}'] = float(found)
      print(name, f'{figures[f"fit_{name}_s"]:.3f} s', flush=True)
  factors = (STEPS + 1) * CAPACITY**3 / 3
  results = {
    'command': 'python -m experiments.bench.surrogate',
    'environment': environment.describe()
    | {'total_s': round(time.perf_counter() - begin, 1)},
    'figures': {name: float(f'{v:.4g}') for name, v in figures.items()},
    'intervals': {},
    'limits': {
      'matmul_gflops': float(f'{rate / 1e9:.4g}'),
      'fit_1_objectives_s': float(f'{factors / rate:.4g}'),
      'fit_3_objectives_s': float(f'{3 * factors / rate:.4g}'),
    },
    'seeds': [0],
  }
  _OUT.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results['figures']))


if __name__ == '__main__':
  app.run(main)
