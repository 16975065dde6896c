"""Merging checkpoints by tensor: reads, merges and hands on.

The same leaf functions and facts as on the device, so the tensors are the same
bit for bit; memory stays at a few times the largest tensor.
"""

import contextlib
import functools
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from automerge_jax.io.checkpoints import open_checkpoint
from automerge_jax.io.tensors import Checkpoint, check_finite
from automerge_jax.merging import chunks, measured, resident, threads
from automerge_jax.merging import facts as facts_lib
from automerge_jax.merging import plan as plans
from automerge_jax.merging.budget import Budget
from automerge_jax.merging.plan import Plan, Step
from automerge_jax.merging.sources import load_statistics
from automerge_jax.recipe import Recipe

# Takes (name, consecutive elements, position of the first one).
Write = Callable[[str, np.ndarray, int], None]

ALONGSIDE = 256 << 20  # bytes for small tensors beside the largest


def run(
  plan: Plan,
  checkpoints: Mapping[str, Checkpoint],
  write: Write,
  workers: int | None = None,
  done: Callable[[Step], None] = lambda step: None,
  statistics: Mapping[str, measured.Statistics] | None = None,
) -> None:
  """Merges every tensor of a plan.

  Args:
    plan: what to do.
    checkpoints: the plan's models, opened.
    write: takes the merged tensors in parts, from several threads.
    workers: tensors that are merged at once, at most; default one a processor.
    done: is told of every tensor that is complete.
    statistics: what was measured, by model.

  Raises:
    ValueError: for a tensor that is not finite, before or after merging.
  """
  cost = plans.working_set
  budget = Budget(max(map(cost, plan.steps), default=0) + ALONGSIDE)
  # The largest first: the small ones then fill the gaps.
  steps = sorted(plan.steps, key=lambda step: -step.info.size)
  stop = threading.Event()

  def work(step: Step) -> None:
    with budget.spend(cost(step)):
      if not stop.is_set():
        _step(plan, step, checkpoints, write, statistics or {}, whole)
        done(step)

  whole = _whole(plan, checkpoints)
  with threads.pool(workers) as pool:
    try:
      for finished in [pool.submit(work, step) for step in steps]:
        finished.result()
    except BaseException:
      stop.set()
      raise


def merge(
  recipe: Recipe,
  folders: Mapping[str, str | pathlib.Path],
  statistics: Mapping[str, measured.Statistics] | None = None,
) -> dict[str, np.ndarray]:
  """Merged tensors by stored name, in memory.

  Tensors that are not floating point are copied from the base (without one,
  from the last model).

  Args:
    recipe: what to do.
    folders: checkpoint of each model that the recipe names.
    statistics: what was measured, by model; None for what the recipe names.

  Raises:
    ValueError: if the models do not hold the same tensors.
  """
  with contextlib.ExitStack() as stack:
    checkpoints = {
      model: stack.enter_context(open_checkpoint(path))
      for model, path in folders.items()
    }
    plan = plans.make(recipe, checkpoints)
    merged = {
      step.output.name: np.empty(step.info.shape, step.info.dtype)
      for step in plan.steps
    }

    def write(name: str, part: np.ndarray, start: int) -> None:
      flat = merged[name].reshape(-1)  # a view
      flat[start : start + part.size] = part.reshape(-1)

    if statistics is None:
      statistics = load_statistics(recipe)
    run(plan, checkpoints, write, statistics=statistics)
  return merged


def _step(
  plan: Plan,
  step: Step,
  checkpoints: Mapping[str, Checkpoint],
  write: Write,
  statistics: Mapping[str, measured.Statistics],
  whole: Callable[[Step], Mapping[str, Any]],
) -> None:
  """Merges one tensor."""
  output, method = step.output, step.output.method
  if step.copied:
    model, name = plans.origin(output)
    write(output.name, checkpoints[model].get(name), 0)
    return
  places = plans.places_of(output)
  arrays = [checkpoints[model].get(name) for model, name in places]
  base = arrays.pop() if len(places) > len(output.sources) else None

  def checked(start: int, stop: int) -> None:
    inputs = [*arrays, *([base] if base is not None else [])]
    for (model, name), array in zip(places, inputs, strict=True):
      check_finite(array.reshape(-1)[start:stop], model, name)

  parts = chunks.merge(
    method,
    output.parameters,
    base,
    arrays,
    output.sources[0][1],
    plan.seed,
    measured.of_tensor(
      method,
      [statistics.get(model, {}) for model, _ in output.sources],
      output.sources[0][1],
    ),
    whole(step),
    checked,
  )
  for start, part in parts:
    stored = chunks.cast(
      chunks.scaled(part, output.scale),
      step.info.dtype,
      method,
      output.name,
      output.parameters,
    )
    write(output.name, stored, start)


def _whole(
  plan: Plan, checkpoints: Mapping[str, Checkpoint]
) -> Callable[[Step], Mapping[str, Any]]:
  """What methods have to know of whole models first, for each step.

  A whole model is what one method merges of the same models. Found once for all
  steps with the same numbers.
  """
  groups: dict[Any, list[Step]] = {}
  for step in plan.steps:
    if not step.copied and step.output.method.whole is not None:
      groups.setdefault(step.output.whole, []).append(step)

  def stacks(steps: list[Step]) -> Iterator[tuple[str, np.ndarray]]:
    for step in steps:
      output = step.output
      places = plans.places_of(output)
      arrays = [checkpoints[model].get(name) for model, name in places]
      base = arrays.pop() if len(places) > len(output.sources) else None
      stack = resident.tensor_stack(output.method, base, arrays)
      yield output.sources[0][1], stack

  def key(step: Step) -> tuple[Any, str]:
    output = step.output
    own = facts_lib.known(output.method, output.parameters, len(output.sources))
    return output.whole, repr(own)

  found: dict[Any, Mapping[str, Any]] = {}
  for steps in groups.values():
    for step in steps:
      output = step.output
      assert output.method.whole is not None
      if key(step) not in found:
        found[key(step)] = output.method.whole(
          functools.partial(stacks, steps),
          facts_lib.known(
            output.method, output.parameters, len(output.sources)
          ),
        )
  return lambda step: found.get(key(step), {})
