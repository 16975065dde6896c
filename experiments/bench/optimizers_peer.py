"""The peers' side of the optimizers' bench; runs where cma and pymoo are.

  python optimizers_peer.py

Reads a list of `{"peer", "name", "num_dims", "population", "generations",
"seed"}` as JSON and prints as JSON the lowest loss of each.
"""

import json
import sys

import functions  # beside this file
import numpy as np


def with_cma(function, starts, population, generations, seed):
  import cma

  num_dims = starts.shape[1]
  lost = function(starts)
  strategy = cma.CMAEvolutionStrategy(
    starts[lost.argmin()],
    0.15,
    {
      'popsize': population,
      'bounds': [[0.0] * num_dims, [1.0] * num_dims],
      'seed': seed + 1,
      'verbose': -9,
    },
  )
  best = lost.min()
  for _ in range(generations - 1):
    x = strategy.ask()
    lost = function(np.asarray(x))
    strategy.tell(x, list(lost))
    best = min(best, lost.min())
  return best


def with_pymoo(function, starts, population, generations, seed):
  from pymoo.algorithms.moo.nsga2 import NSGA2
  from pymoo.core.problem import Problem
  from pymoo.optimize import minimize

  class Box(Problem):
    def __init__(self):
      super().__init__(n_var=starts.shape[1], n_obj=1, xl=0.0, xu=1.0)

    def _evaluate(self, x, out, *args, **kwargs):
      out['F'] = function(x)[:, None]

  found = minimize(
    Box(),
    NSGA2(pop_size=population, sampling=starts, n_offsprings=population),
    ('n_gen', generations),
    seed=seed,
  )
  return found.F.min()


def main():
  answers = []
  for case in json.load(sys.stdin):
    function = functions.make(case['name'], case['num_dims'])
    draw = np.random.default_rng(case['seed'])
    starts = draw.uniform(size=(case['population'], case['num_dims']))
    peer = {'cma': with_cma, 'pymoo': with_pymoo}[case['peer']]
    answers.append(
      float(
        peer(
          function,
          starts,
          case['population'],
          case['generations'],
          case['seed'],
        )
      )
    )
  print(json.dumps(answers))


if __name__ == '__main__':
  main()
