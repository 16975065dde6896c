"""Brackets of successive halving and Hyperband of SMAC; runs in .venv-peers.

python brackets_peer.py INPUTS.npz OUTPUTS.npz, with `cases` [n, 3]: eta, first
and last budget. The answer is `brackets`: JSON, see `record`.
"""

import json
import logging
import sys
import tempfile

import numpy as np
from ConfigSpace import ConfigurationSpace, Float
from smac import MultiFidelityFacade, Scenario
from smac.intensifier import Hyperband, SuccessiveHalving

CASES = (
  (3, 100, 1000),
  (3, 1, 81),
  (3, 1, 243),
  (2, 1, 16),
  (2, 25, 200),
  (4, 50, 800),
  (4, 10, 300),
  (3, 30, 270),
  (5, 7, 875),
  (3, 100, 100),
)


def record(cases) -> list[dict]:
  """Of each case its budgets, and by kind of search each bracket's.

  A bracket is two lists: configurations and budgets of its stages.
  """
  space = ConfigurationSpace({'x': Float('x', (0, 1))})
  found = []
  for eta, low, high in cases:
    case = {'eta': int(eta), 'budgets': [float(low), float(high)]}
    for kind in (SuccessiveHalving, Hyperband):
      with tempfile.TemporaryDirectory() as folder:
        scenario = Scenario(
          space,
          min_budget=float(low),
          max_budget=float(high),
          n_trials=50,
          output_directory=folder,
        )
        intensifier = kind(scenario, eta=int(eta))
        MultiFidelityFacade(
          scenario,
          lambda config, seed, budget: 0.0,
          intensifier=intensifier,
          logging_level=logging.ERROR,
        )
        intensifier.__post_init__()  # otherwise at the first trial
        case[kind.__name__] = [
          [
            [int(n) for n in intensifier._n_configs_in_stage[b]],
            [float(n) for n in intensifier._budgets_in_stage[b]],
          ]
          for b in sorted(intensifier._n_configs_in_stage)
        ]
    found.append(case)
  return found


def main(inputs: str, outputs: str) -> None:
  with np.load(inputs) as given:
    np.savez(outputs, brackets=json.dumps(record(given['cases'])))


if __name__ == '__main__':
  main(*sys.argv[1:])
