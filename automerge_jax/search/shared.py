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
from automerge_jax.models import base as models
from automerge_jax.models import program as programs
from automerge_jax.types import (
  Array,
  ExpertStack,
  Family,
  LayerProgram,
  MergeMethod,
  MergePlan,
  Params,
)

MOST = 4 * 2**30  # bytes of hidden states that are kept
_CARRY = 'carry'


def depth(
  family: Family,
  base: Mapping[str, np.ndarray],
  experts: Sequence[Mapping[str, np.ndarray]],
) -> int:
  """How many leading layers, with the stem, are the base's in every expert.

  0 for models of two stacks, and where all layers are shared.
  """
  if family.encoder is not None:
    return 0
  count = family.num_layers
  for key in family.keys:
    stem = key.path.startswith('stem/')
    layer = 0 if stem else key.layer
    if layer is None or layer >= count:
      continue
    if not all(
      np.array_equal(e[key.stored], base[key.stored]) for e in experts
    ):
      count = layer
  return 0 if count == family.num_layers else count


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
  count = 0 if method.whole else depth(family, base, experts)
  own = upper(family, count) if count else family
  stack = resident.build(method, own, base, experts)
  if count:
    stack = dataclasses.replace(stack, below=lowest(family, base, count))
  return _calibrated(family, stack, calibration, static)


def lowest(
  family: Family, base: Mapping[str, np.ndarray], count: int
) -> Params:
  """Stem and leading layers, see `ExpertStack.below`."""
  params = models.pack(family.keys, base)
  layers = jax.tree.map(lambda leaf: leaf[:count], params['layers'])
  below = {'stem': params['stem'], 'layers': layers}
  return jax.tree.map(jnp.asarray, below)


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
      piece, data=carried(family, stack, piece.data, 'float32')
    )
    for piece in examples.pieces
  )
  calibration = dataclasses.replace(
    calibration, examples=dataclasses.replace(examples, pieces=pieces)
  )
  return upper(family, _count(stack.below)), calibration, _stem(stack)


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
    own = upper(family, _count(stack.below))
    return calibrations.merge(own, plan, stack, _stem(stack))

  if apart or stack.calibration is not None:
    merge = jax.custom_batching.sequential_vmap(merge)
  if program is not None:
    assert stack.below is None, 'programs need stacks of whole models'
    layer = jnp.where(program.active, program.layer, -1)
    restacked = merge(plan, stack, layer)
    params = cast(programs.fold(family, restacked, program.scale), dtype)
    own = programs.family(family, program)
    return lambda data: (own, params)
  if stack.below is None:
    params = cast(merge(plan, stack), dtype)
    return lambda data: (family, params)
  count = _count(stack.below)
  above = cast(merge(_plan(plan, count), stack), dtype)
  below = cast(stack.below, dtype)
  ours = upper(family, count), dict(above, stem=below['stem'])
  whole = family, _join(below, above)
  return lambda data: ours if _is_carried(data) else whole


def cast(params: Params, dtype: str) -> Params:
  """Parameters in the type in which the model shall compute."""
  return jax.tree.map(lambda leaf: leaf.astype(dtype), params)


def upper(family: Family, count: int) -> Family:
  """What follows the first `count` layers, on hidden states instead of ids.

  Its keys leave out the stem, which its params must hold nevertheless.
  """
  keys = tuple(
    key if key.layer is None else key._replace(layer=key.layer - count)
    for key in family.keys
    if not key.path.startswith('stem/')
    and (key.layer is None or key.layer >= count)
  )
  return dataclasses.replace(
    family,
    num_layers=family.num_layers - count,
    embed=lambda params, inputs: inputs[_CARRY],
    layer_info=jax.tree.map(lambda leaf: leaf[count:], family.layer_info),
    keys=keys,
  )


def carried(family: Family, stack: ExpertStack, data: Any, dtype: str) -> Any:
  """Data whose inputs also hold what comes out of the shared layers.

  Args:
    family: of the models.
    stack: what `build` made.
    data: arrays of items, or inputs; what does not read all tokens at once,
      such as queues of prompts, is left as it is, as is what would need more
      than `MOST` bytes.
    dtype: in which models compute.
  """
  if stack.below is None:
    return data
  count = _count(stack.below)
  info = jax.tree.map(lambda leaf: leaf[:count], family.layer_info)

  def run_lowest(below: Params, inputs: Mapping[str, Array]) -> Any:
    params = cast(below, dtype)

    def step(carry, layer):
      return family.block(layer[0], carry, layer[1]), None

    carry = family.embed(params, inputs)
    carry, _ = jax.lax.scan(step, carry, (params['layers'], info))
    return carry

  run = jax.jit(
    lambda below, x: jax.lax.map(lambda one: run_lowest(below, one), x)
  )

  def of_inputs(inputs: Mapping[str, Array]) -> dict[str, Any]:
    first = next(iter(inputs.values()))
    lead = first.shape[: first.ndim - (4 if 'pixels' in inputs else 2)]
    flat = jax.tree.map(
      lambda leaf: leaf.reshape(-1, *leaf.shape[len(lead) :]), dict(inputs)
    )
    shapes = jax.tree.leaves(jax.eval_shape(run, stack.below, flat))
    if sum(s.size * s.dtype.itemsize for s in shapes) > MOST:
      return dict(inputs)
    carry = jax.tree.map(
      lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), run(stack.below, flat)
    )
    return dict(inputs, **{_CARRY: carry})

  def of_part(part: Any) -> Any:
    if isinstance(part, Mapping):
      return of_inputs(part)
    if hasattr(part, 'packed'):
      return dataclasses.replace(part, packed=of_part(part.packed))
    if hasattr(part, 'inputs'):
      return dataclasses.replace(part, inputs=of_inputs(part.inputs))
    return part

  return tuple(map(of_part, data)) if isinstance(data, tuple) else of_part(data)


def _is_carried(part: Any) -> bool:
  holder = getattr(part, 'packed', part)
  inputs = (
    holder if isinstance(holder, Mapping) else holder.__dict__.get('inputs', {})
  )
  return _CARRY in inputs


def _stem(stack: ExpertStack) -> Params:
  assert stack.below is not None
  return {'stem': stack.below['stem']}


def _count(below: Params) -> int:
  return jax.tree.leaves(below['layers'])[0].shape[0]


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
