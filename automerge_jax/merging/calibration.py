"""Fisher information of candidates, measured while they are merged.

What `dynamic.df_merge` needs beside base and task vectors: items of each
expert's own task, and how information is measured on them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from automerge_jax.merging import dynamic
from automerge_jax.statistics import dynamic as statistics
from automerge_jax.statistics.examples import Examples
from automerge_jax.types import Array, ExpertStack, Family, MergePlan, Params

PLACES = ('candidate', 'expert')


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Calibration:
  """What information is measured on, and how; see `statistics.dynamic`.

  Attributes:
    examples: of all tasks.
    heads: stacked task heads.
    task: of each expert, int32 [K].
    key: of draws.
    estimate: 'exact', 'sampled' or 'label'.
    normalisation: 'none', 'global_norm' or 'trace'.
    known: information of the experts themselves, leaves [K, ...], which then
      counts for all candidates; None where each candidate's own is measured.
  """

  examples: Examples
  heads: Any
  task: Array
  key: Array
  estimate: str = dataclasses.field(metadata={'static': True})
  normalisation: str = dataclasses.field(metadata={'static': True})
  known: Params | None = None


def information(
  family: Family,
  calibration: Calibration,
  k: Array | int,
  params: Params,
  total: Params | None = None,
  fixed: Params | None = None,
) -> Params:
  """Fisher information of expert k's task at `params`; pure and jittable.

  Args:
    family: of the models.
    calibration: on what.
    k: which expert; may be traced.
    params: where.
    total: what it is added to.
    fixed: further top-level parts of the model, which are not measured.
  """
  return statistics.information(
    family,
    params,
    calibration.heads,
    calibration.examples,
    calibration.task[k],
    jax.random.fold_in(calibration.key, k),
    total=total,
    fixed=fixed,
    estimate=calibration.estimate,
    normalisation=calibration.normalisation,
  )


def merge(
  family: Family,
  plan: MergePlan,
  stack: ExpertStack,
  fixed: Params | None = None,
) -> Params:
  """Merged Params; pure and jittable. See `dynamic.df_merge`.

  Args:
    family: of the models.
    plan: `weight` by leaf, [K, L] or [K].
    stack: task vectors, and a calibration.
    fixed: as for `information`.
  """
  calibration = stack.calibration

  def add(k: Array, params: Params, total: Params) -> Params:
    return information(family, calibration, k, params, total, fixed)

  if calibration.known is not None:
    add = dynamic.fixed(calibration.known)
  weights = {path: of_leaf['weight'] for path, of_leaf in plan.items()}
  return dynamic.df_merge(weights, stack.base, stack.stack, add)


def of_experts(
  family: Family, stack: ExpertStack, fixed: Params | None = None
) -> ExpertStack:
  """The stack with information of the experts themselves, which stays."""
  calibration = stack.calibration

  @jax.jit
  def measured(stack: ExpertStack, k: Array) -> Params:
    params = jax.tree.map(lambda b, d: b + d[k], stack.base, stack.stack)
    return information(family, stack.calibration, k, params, fixed=fixed)

  each = [measured(stack, jnp.int32(k)) for k in range(len(calibration.task))]
  known = jax.tree.map(lambda *rows: jnp.stack(rows), *each)
  return dataclasses.replace(
    stack, calibration=dataclasses.replace(calibration, known=known)
  )
