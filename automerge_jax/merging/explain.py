"""A plan in words: what a merge will do, what it takes, what to be wary of."""

import os
import resource
import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from automerge_jax.merging import checks, chunks, facts, measured, resident
from automerge_jax.merging import plan as plans
from automerge_jax.merging.plan import Plan, Step
from automerge_jax.merging.sources import Opened
from automerge_jax.merging.streaming import ALONGSIDE
from automerge_jax.recipe import Recipe

_SAMPLE = 1 << 20  # entries that are merged to estimate the time


def text(recipe: Recipe, models: Opened, plan: Plan) -> str:
  """The plan: totals, warnings, and a line a tensor."""
  base = f', base {recipe.base_model}' if recipe.base_model else ''
  size = sum(step.info.size for step in plan.steps)
  lines = [
    f'{", ".join(recipe.methods)} ({recipe.semantics}) of '
    f'{len(recipe.models)} models'
    f'{base}',
    f'{len(plan.steps)} tensors, {size:,} parameters',
    f'read {_bytes(plan.bytes_read)}, write {_bytes(plan.bytes_written)}',
    f'peak memory about {_bytes(peak_memory(plan))}',
    f'about {seconds(models, plan):.0f} s, as a sample of it took',
  ]
  reasons = checks.not_portable(recipe, models, plan)
  if reasons:
    lines += ['mergekit 0.1.5 cannot make the same tensors:']
    lines += [f'  {reason}' for reason in reasons]
  for warning in checks.warnings(recipe, models, plan):
    lines.append(f'warning: {warning}')
  lines.append('')
  lines += [line for step in plan.steps for line in _step(step)]
  return '\n'.join(lines)


def peak_memory(plan: Plan) -> int:
  """Bytes, roughly: this process, the largest tensor's merge, some beside."""
  costs = [plans.working_set(step) for step in plan.steps]
  unit = 1 if sys.platform == 'darwin' else 1024
  now = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
  beside = min(sum(costs) - max(costs, default=0), ALONGSIDE)
  return now + max(costs, default=0) + beside


def seconds(models: Opened, plan: Plan) -> float:
  """Estimated time: merging and reading of a sample, scaled up."""
  merged = [step for step in plan.steps if not step.copied]
  if not merged:
    return 0.0
  step = max(merged, key=lambda step: step.info.size)
  method = step.output.method
  places = plans.places_of(step.output)
  row = max(1, step.info.size // max(1, (*step.info.shape, 1)[0]))
  rows = max(1, _SAMPLE // row)
  begin = time.perf_counter()
  arrays = [
    np.array(models.checkpoints[model].get(name)[:rows])
    if step.info.shape
    else models.checkpoints[model].get(name)
    for model, name in places
  ]
  reading = time.perf_counter() - begin
  base = arrays.pop() if len(places) > len(step.output.sources) else None
  name = step.output.sources[0][1]
  statistics = {
    statistic: found[:, :rows] if found.shape[1:] == step.info.shape else found
    for statistic, found in measured.of_tensor(
      method,
      [models.statistics.get(m, {}) for m, _ in step.output.sources],
      name,
    ).items()
  }
  once = 0.0
  for _ in range(2):  # the first one compiles
    begin = time.perf_counter()
    chunks.merge_tensor(
      method,
      step.output.parameters,
      base,
      arrays,
      name,
      plan.seed,
      statistics,
      _whole(step, base, arrays),
    )
    once = time.perf_counter() - begin
  scale = sum(s.info.size for s in merged) / max(1, arrays[0].size)
  writing = reading / len(places)
  return scale * (once / (os.cpu_count() or 1) + reading + writing)


def _whole(
  step: Step, base: np.ndarray | None, arrays: list[np.ndarray]
) -> Mapping[str, Any]:
  """What a method wants to know of whole models, as if this were all."""
  method = step.output.method
  if method.whole is None:
    return {}
  name = step.output.sources[0][1]
  stack = resident.tensor_stack(method, base, arrays)
  settings = facts.known(method, step.output.parameters, len(arrays))
  return method.whole(lambda: iter([(name, stack)]), settings)


def _step(step: Step) -> list[str]:
  output = step.output
  what = f'{output.name} {list(step.info.shape)} {step.info.dtype}'
  if step.copied:
    return [f'{what}: copied from {plans.origin(output)[0]}']
  places = plans.places_of(output)
  numbers = ', '.join(_number(*item) for item in output.parameters.items())
  models = ', '.join(model for model, _ in output.sources)
  if len(places) > len(output.sources):
    models += f' on {places[-1][0]}'
  scale = output.scale
  if scale is not None:
    models += f', times {scale.value:g}'
    if scale.offset:
      models += f' with {scale.offset:g} added'
  lines = [f'{what}: {output.method.name}({numbers}) of {models}']
  if any(name != output.name for _, name in places):
    lines += [f'  from {model}: {name}' for model, name in places]
  return lines


def _number(name: str, value: Any) -> str:
  if isinstance(value, tuple | list):
    inner = ', '.join(f'{float(v):g}' for v in value)
    return f'{name}=[{inner}]'
  return f'{name}={float(value):g}'


def _bytes(count: int) -> str:
  return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.0f} MB'
