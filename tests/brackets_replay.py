"""Compares `search.brackets` with the stages that SMAC made."""

import numpy as np

from automerge_jax.search import brackets, fidelity


def compare(cases) -> int:
  """Number of brackets that agree; see tests/oracle/brackets_peer.py.

  SMAC starts at the last budget divided by powers of eta, so rungs are those,
  rounded to whole items.
  """
  agreed = 0
  for case in cases:
    (halving,), eta = case['SuccessiveHalving'], case['eta']
    rungs = [round(budget) for budget in halving[1]]
    ours = brackets.hyperband(eta, rungs)
    assert len(ours) == len(case['Hyperband'])
    for stages, (counts, budgets) in zip(ours, case['Hyperband'], strict=True):
      assert [stage.candidates for stage in stages] == counts, case
      np.testing.assert_allclose(
        [rungs[stage.rung] for stage in stages], budgets, atol=0.5
      )
      agreed += 1
    schedule = fidelity.schedule('halving', rungs, halving[0][0], eta)
    assert schedule.expected(0).tolist() == halving[0], case
  return agreed
