"""The peers' side of a comparison of searches; runs where the peers are.

  python peer_process.py

A conversation of one run, a JSON value a line. The first line read has what
`Problem` has, with `peer` and `seed`. Then each line written is `{"x": [n, D],
"items": items a task}`, and each line read its values [n, M], which are
maximised, or null where the budget is spent.
"""

import contextlib
import itertools
import json
import os
import sys
import tempfile

import numpy as np

ETA = 3  # of Hyperband, as published


class Over(Exception):
  """The budget is spent."""


class Bench:
  """What a peer sees of the other side."""

  def __init__(self, problem, questions, answers):
    self.choices = np.asarray(problem['choices'], int)
    self.starts = np.asarray(problem['starts'], float)
    self.rungs = problem['rungs']
    self.num_objectives = problem['num_objectives']
    self.population = problem['population']
    self.seed = problem['seed']
    self._questions = questions
    self._answers = answers

  @property
  def num_dims(self):
    return len(self.choices)

  def snap(self, x):
    """Puts categories, as floats are binned, where they lie: [n, D]."""
    width = np.maximum(self.choices, 1)
    option = np.clip(np.floor(np.asarray(x) * width), 0, width - 1)
    return np.where(self.choices > 0, (option + 0.5) / width, x)

  def costs(self, x, items=None):
    """Costs [n, M], which are minimised, of x [n, D]."""
    question = {'x': self.snap(x).tolist(), 'items': items or self.rungs[-1]}
    print(json.dumps(question), file=self._questions, flush=True)
    answer = self._answers.readline()
    values = json.loads(answer) if answer else None
    if values is None:
      raise Over
    costs = 1 - np.asarray(values, float)
    # The published system gives whatever fails a cost of 1, as a success.
    return np.where(np.isnan(costs), 1.0, costs)

  def costs_of_starts(self):
    """Costs of the starts [S, M], a population at a time."""
    parts = range(0, len(self.starts), self.population)
    return np.concatenate(
      [self.costs(self.starts[i : i + self.population]) for i in parts]
    )


def space_of(bench):
  """A ConfigSpace: a categorical where there are options, else a float."""
  from ConfigSpace import Categorical, ConfigurationSpace, Float

  space = ConfigurationSpace(seed=bench.seed)
  space.add(
    [
      Categorical(f'x{i:04}', list(range(n)))
      if n
      else Float(f'x{i:04}', (0.0, 1.0))
      for i, n in enumerate(bench.choices.tolist())
    ]
  )
  return space


def rung_of(bench):
  """Budget of SMAC to items a task; budgets are powers of eta below the top.

  Raises:
    ValueError: where the rungs are not those of Hyperband's brackets.
  """
  top = bench.rungs[-1]
  ideal = top / ETA ** np.arange(len(bench.rungs) - 1, -1, -1)
  if (np.abs(np.asarray(bench.rungs) - ideal) > 1).any():
    raise ValueError(
      f'rungs {bench.rungs} are not those of Hyperband with eta {ETA}; '
      f'expected {np.rint(ideal).astype(int).tolist()}, each at most 1 off'
    )
  return lambda budget: bench.rungs[int(np.argmin(np.abs(ideal - budget)))]


def with_smac(bench):
  """MultiFidelityFacade with the published settings, or ParEGO."""
  import joblib
  import smac
  from ConfigSpace import Configuration
  from smac.intensifier import Hyperband
  from smac.multi_objective.parego import ParEGO
  from smac.runhistory import TrialValue

  space, items_of = space_of(bench), rung_of(bench)
  names = [f'x{i:04}' for i in range(bench.num_dims)]
  several = bench.num_objectives > 1

  def configuration(x):
    option = np.floor(x * bench.choices).astype(int).tolist()
    value = [
      one if n else float(at)
      for n, one, at in zip(bench.choices, option, x, strict=True)
    ]
    return Configuration(space, dict(zip(names, value, strict=True)))

  def vector(config):
    at = np.array([config[name] for name in names], float)
    return np.where(
      bench.choices > 0, (at + 0.5) / np.maximum(bench.choices, 1), at
    )

  with tempfile.TemporaryDirectory() as folder:
    scenario = smac.Scenario(
      space,
      objectives=[f'cost{i}' for i in range(bench.num_objectives)]
      if several
      else 'cost',
      deterministic=True,
      seed=bench.seed,
      # A little lower, for the number of rungs is a logarithm rounded down.
      min_budget=bench.rungs[-1] / ETA ** (len(bench.rungs) - 1) * 0.999,
      max_budget=float(bench.rungs[-1]),
      n_trials=10**6,  # the budget in items ends it
      output_directory=folder,
    )
    facade = (
      smac.HyperparameterOptimizationFacade
      if several
      else smac.MultiFidelityFacade
    )
    parts = {}
    if several:
      parts['intensifier'] = Hyperband(
        scenario, incumbent_selection='highest_budget'
      )
      parts['multi_objective_algorithm'] = ParEGO(scenario)
    search = facade(
      scenario,
      lambda config, seed, budget: 0.0,  # asked and told instead
      initial_design=facade.get_initial_design(
        scenario,
        n_configs=0,
        additional_configs=[configuration(x) for x in bench.starts],
      ),
      logging_level=30,
      overwrite=True,
      **parts,
    )
    # Trees one after the other: threads for each only wait for one another.
    with joblib.parallel_config('sequential'):
      while True:
        trial = search.ask()
        items = items_of(trial.budget)
        cost = bench.costs(vector(trial.config)[None], items)[0].tolist()
        cost = cost if several else cost[0]
        search.tell(trial, TrialValue(cost=cost), save=False)


def with_pycma(bench):
  """CMA-ES as mergekit-evolve has it: sigma0 a sixth, no bounds.

  What leaves the box is seen as its absolute value, at most 1, as
  mergekit-evolve reads its densities.
  """
  import cma

  costs = bench.costs_of_starts()[:, 0]
  strategy = cma.CMAEvolutionStrategy(
    bench.starts[costs.argmin()],
    1 / 6,
    {'popsize': bench.population, 'seed': bench.seed + 1, 'verbose': -9},
  )
  while True:
    x = strategy.ask()
    inside = np.minimum(np.abs(x), 1)
    strategy.tell(x, bench.costs(inside)[:, 0].tolist())


def with_pymoo(bench):
  """NSGA-II as mergenetic has it: SBX and polynomial mutation on floats."""
  from pymoo.algorithms.moo.nsga2 import NSGA2
  from pymoo.core.evaluator import Evaluator
  from pymoo.core.problem import Problem
  from pymoo.problems.static import StaticProblem

  draw = np.random.default_rng(bench.seed)
  missing = max(bench.population - len(bench.starts), 0)
  more = draw.uniform(size=(missing, bench.num_dims))
  box = Problem(
    n_var=bench.num_dims, n_obj=bench.num_objectives, xl=0.0, xu=1.0
  )
  search = NSGA2(
    pop_size=bench.population, sampling=np.concatenate([bench.starts, more])
  )
  search.setup(box, termination=('n_gen', 10**6), seed=bench.seed)
  while True:
    asked = search.ask()
    known = StaticProblem(box, F=bench.costs(asked.get('X')))
    Evaluator().eval(known, asked)
    search.tell(infills=asked)


def with_random(bench):
  """Uniform draws after the starts."""
  draw = np.random.default_rng(bench.seed)
  bench.costs_of_starts()
  for _ in itertools.count():
    bench.costs(draw.uniform(size=(bench.population, bench.num_dims)))


PEERS = {
  'smac': with_smac,
  'parego': with_smac,
  'pycma': with_pycma,
  'pymoo': with_pymoo,
  'random': with_random,
}


def main():
  # What a peer prints goes where its errors go.
  questions = os.fdopen(os.dup(1), 'w')
  os.dup2(2, 1)
  problem = json.loads(sys.stdin.readline())
  with contextlib.suppress(Over):
    PEERS[problem['peer']](Bench(problem, questions, sys.stdin))


if __name__ == '__main__':
  main()
