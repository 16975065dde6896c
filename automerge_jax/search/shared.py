"""Layers that all models share: what they compute is computed once.

Experts whose lower layers are the base's (adapters on the upper half, frozen
layers) give the same hidden states there, whatever the candidate. They are kept
for the search items, and candidates are merged and run from there on.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import calibration as calibrations
from automerge_jax.merging import resident
from automerge_jax.merging.calibration import Calibration
from automerge_jax.models import program as programs
from automerge_jax.search import lower
from automerge_jax.types import (
  ExpertStack,
  Family,
  LayerProgram,
  MergeMethod,
  MergePlan,
  Params,
)


def build(
  method: MergeMethod,
  family: Family,
  base: Mapping[str, np.ndarray],
  experts: Sequence[Mapping[str, np.ndarray]],
  calibration: Calibration | None = None,
  static: bool = False,
) -> ExpertStack:
  """As `resident.build`, with what all models share apart.

  A method that looks at whole models gets whole models.

  Args:
    method: the merge method.
    family: of base and experts.
    base: stored tensors by name.
    experts: stored tensors of each expert.
    calibration: of a dynamic method.
    static: information is that of the experts, whatever the candidate.
  """
  if method.dynamic:  # nothing is known in advance
    method = dataclasses.replace(method, facts=(), statistics=())
  count = 0 if method.whole else lower.depth(family, base, experts)
  own = lower.upper(family, count) if count else family
  stack = resident.build(method, own, base, experts)
  if count:
    stack = dataclasses.replace(stack, below=lower.lowest(family, base, count))
  return _calibrated(family, stack, calibration, static)


def _calibrated(
  family: Family,
  stack: ExpertStack,
  calibration: Calibration | None,
  static: bool,
) -> ExpertStack:
  if calibration is None:
    return stack
  family, calibration, fixed = above(family, stack, calibration)
  stack = dataclasses.replace(stack, calibration=calibration)
  return calibrations.of_experts(family, stack, fixed) if static else stack


def above(
  family: Family, stack: ExpertStack, calibration: Calibration
) -> tuple[Family, Calibration, Params | None]:
  """What information is measured with where the lower layers are shared.

  Args:
    family: of the models.
    stack: with what is below.
    calibration: of whole models.

  Returns:
    The family of what is not shared, the calibration with hidden states in
    place of tokens, and the stem, which is not measured.
  """
  if stack.below is None:
    return family, calibration, None
  examples = calibration.examples
  pieces = tuple(
    dataclasses.replace(
      piece, data=lower.carried(family, stack, piece.data, 'float32')
    )
    for piece in examples.pieces
  )
  calibration = dataclasses.replace(
    calibration, examples=dataclasses.replace(examples, pieces=pieces)
  )
  return (
    lower.upper(family, lower.count_of(stack.below)),
    calibration,
    _stem(stack),
  )


def merged(
  family: Family,
  method: MergeMethod,
  plan: MergePlan,
  stack: ExpertStack,
  dtype: str,
  program: LayerProgram | None = None,
  apart: bool = False,
) -> Callable[[Any], tuple[Family, Params]]:
  """A candidate: `data -> (family, params)` that this data is run with.

  Args:
    family: of the models.
    method: how to merge.
    plan: for whole models.
    stack: what `build` made.
    dtype: in which merged models compute.
    program: which layers stand at which position; layers of the plan are then
      by position, and the stack must hold whole models.
    apart: merge candidates one by one where they are vmapped, so that a method
      that switches takes one branch; it costs the gradient.
  """

  def merge(plan: MergePlan, stack: ExpertStack, layer: Any = None) -> Params:
    if stack.calibration is None:
      return resident.merge(method, plan, stack, layer)
    if stack.below is None:
      return calibrations.merge(family, plan, stack)
    own = lower.upper(family, lower.count_of(stack.below))
    return calibrations.merge(own, plan, stack, _stem(stack))

  if apart or stack.calibration is not None:
    merge = jax.custom_batching.sequential_vmap(merge)
  if program is not None:
    assert stack.below is None, 'programs need stacks of whole models'
    layer = jnp.where(program.active, program.layer, -1)
    restacked = merge(plan, stack, layer)
    params = lower.cast(programs.fold(family, restacked, program.scale), dtype)
    own = programs.family(family, program)
    return lambda data: (own, params)
  if stack.below is None:
    params = lower.cast(merge(plan, stack), dtype)
    return lambda data: (family, params)
  count = lower.count_of(stack.below)
  above = lower.cast(merge(_plan(plan, count), stack), dtype)
  below = lower.cast(stack.below, dtype)
  ours = lower.upper(family, count), dict(above, stem=below['stem'])
  whole = family, _join(below, above)
  return lambda data: ours if lower.is_carried(data) else whole


def _plan(whole: MergePlan, count: int) -> MergePlan:
  """The part of a plan that is of the upper layers."""
  return {
    path: {name: value[..., count:] for name, value in of_leaf.items()}
    if path.startswith('layers/')
    else of_leaf
    for path, of_leaf in whole.items()
    if not path.startswith('stem/')
  }


def _join(below: Params, above: Params) -> Params:
  """A whole model of shared and merged layers."""
  layers = jax.tree.map(
    lambda *parts: jnp.concatenate(parts), below['layers'], above['layers']
  )
  return dict(above, stem=below['stem'], layers=layers)


def _stem(stack: ExpertStack) -> Params:
  assert stack.below is not None
  return {'stem': stack.below['stem']}
