"""What a merge will do, found before it does it: no weights are read.

A plan is the recipe resolved against its checkpoints: every output tensor with
its inputs, numbers, type and shape, and what that costs.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.io.tensors import Checkpoint, TensorInfo, is_floating
from automerge_jax.merging.chunks import CHUNK
from automerge_jax.merging.outputs import Output, outputs
from automerge_jax.recipe import Recipe

_FACTORS = 32  # bytes an entry for a matrix and its singular vectors
_SELECTED = 4  # bytes an entry for the magnitudes that a selection moves about


@dataclasses.dataclass(frozen=True)
class Step:
  """One tensor of the merged checkpoint.

  Attributes:
    output: its name, inputs and numbers.
    info: its shape and type.
    inputs: shapes and types of the experts' tensors and of the base's, if any.
    copied: not floating point, so taken from the base (or the last model).
  """

  output: Output
  info: TensorInfo
  inputs: tuple[TensorInfo, ...]
  copied: bool

  @property
  def bytes_read(self) -> int:
    """Bytes of input tensors."""
    if self.copied:
      return self.info.nbytes
    return sum(info.nbytes for info in self.inputs)


@dataclasses.dataclass(frozen=True)
class Plan:
  """A merge, resolved.

  Attributes:
    seed: of random masks.
    steps: one an output tensor, in the order of the merged checkpoint.
  """

  seed: int
  steps: tuple[Step, ...]

  @property
  def bytes_read(self) -> int:
    """Bytes of all inputs; a tensor that is used twice counts twice."""
    return sum(step.bytes_read for step in self.steps)

  @property
  def bytes_written(self) -> int:
    """Bytes of the merged weights."""
    return sum(step.info.nbytes for step in self.steps)


def make(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> Plan:
  """Resolves a recipe against opened checkpoints.

  Args:
    recipe: what to merge.
    checkpoints: of each model that the recipe names.

  Raises:
    ValueError: if tensors, shapes or the number of experts do not fit, or a
      required number is stated nowhere.
  """
  names = {model: c.names() for model, c in checkpoints.items()}
  steps = [
    _step(recipe, output, checkpoints) for output in outputs(recipe, names)
  ]
  _check_shapes(steps)
  return Plan(recipe.seed, tuple(steps))


def working_set(step: Step) -> int:
  """Bytes of memory that merging one tensor takes, roughly."""
  method = step.output.method
  size, count = step.info.size, len(step.output.sources)
  if step.copied:
    return 0
  chunks = 4 * (2 * count + 4) * min(size, CHUNK)
  if not any(fact.elementwise for fact in method.facts):
    whole = 4 * count if method.facts else 0
    return chunks + whole * size
  # The stack, the base where it is not float32 already, and the facts.
  each = 4 * (count + any(info.dtype != np.float32 for info in step.inputs))
  for fact in method.facts:
    if fact.elementwise:
      each += fact.itemsize * count**fact.lead
      if not fact.lead:  # a merged whole, made from matrices in float64
        each += _FACTORS
  return chunks + (each + _SELECTED) * size


def _step(
  recipe: Recipe,
  output: Output,
  checkpoints: Mapping[str, Checkpoint],
) -> Step:
  places = places_of(output)
  inputs = tuple(checkpoints[model].info(name) for model, name in places)
  copied = not all(is_floating(info.dtype) for info in inputs)
  stated = recipe.out_dtype or recipe.dtype
  if copied:
    model, name = origin(output)
    dtype = checkpoints[model].info(name).dtype
  elif stated is None:
    dtype = _widest([info.dtype for info in inputs])
  else:
    dtype = np.dtype(jnp.dtype(stated))
  return Step(output, TensorInfo(inputs[-1].shape, dtype), inputs, copied)


def _widest(dtypes: list[np.dtype]) -> np.dtype:
  """The type that holds the numbers of several."""
  if len(set(dtypes)) == 1:
    return dtypes[0]
  # No type of one byte holds another; every wider type holds them all.
  wider = {dtype for dtype in dtypes if dtype.itemsize > 1}
  found = functools.reduce(jnp.promote_types, wider or {np.dtype(np.float32)})
  return np.dtype(found)


def places_of(output: Output) -> list[tuple[str, str]]:
  """(model, stored name) of each input, the base last where it is one."""
  places = list(output.sources)
  if output.base is not None and output.method.stack != 'weights':
    places.append(output.base)
  return places


def origin(output: Output) -> tuple[str, str]:
  """(model, stored name) that a tensor is copied from, if it is copied."""
  return output.base or output.sources[-1]


def _check_shapes(steps: list[Step]) -> None:
  lines = []
  for step in steps:
    if len({info.shape for info in step.inputs}) > 1:
      described = ', '.join(
        f'{model} {list(info.shape)}'
        for (model, _), info in zip(
          places_of(step.output), step.inputs, strict=True
        )
      )
      lines.append(f'{step.output.name}: {described}')
  if lines:
    raise ValueError(
      f'{len(lines)} tensors have different shapes:{trees.listing(lines)}'
    )
