"""Merging by tensor, from a recipe: reads, merges and hands on one at a time.

The same leaf functions and facts as on the device, so the tensors are the same
bit for bit; memory stays at a few times the largest tensor.
"""

import functools
import pathlib
import re
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import safetensors
from automerge_jax.merging import facts as facts_lib
from automerge_jax.merging import registry, resident
from automerge_jax.merging.resolve import Resolved, resolve
from automerge_jax.recipe import Recipe
from automerge_jax.types import MergeMethod, Stored

_LAYER = re.compile(r'(?:^|\.)(?:layers?|blocks?|h)\.(\d+)\.')


def layer_of(name: str) -> int | None:
  """Layer of a stored tensor by its name, None outside the layers."""
  match = _LAYER.search(name)
  return int(match.group(1)) if match else None


def merge(
  recipe: Recipe, folders: Mapping[str, pathlib.Path]
) -> Iterator[tuple[str, np.ndarray]]:
  """Merged tensors by stored name, in the order of the leading model's files.

  Tensors that are not floating point are copied from the base (without one,
  from the first model).

  Args:
    recipe: what to do.
    folders: Hugging Face folder of each model that the recipe names.

  Raises:
    ValueError: if the models do not hold the same tensors.
  """
  method = registry.get(recipe.merge_method)
  lead, *others = recipe.models
  names = list(safetensors.files(folders[lead]))
  for model in others:
    unlike = set(names) ^ set(safetensors.files(folders[model]))
    if unlike:
      raise ValueError(
        f'{model} and {lead} differ in tensors: {sorted(unlike)[:10]}'
      )
  layers = {name: layer_of(name) for name in names}
  num_layers = 1 + max((n for n in layers.values() if n is not None), default=0)
  with safetensors.Reader(folders) as reader:
    for name in names:
      kept = reader.get(lead, name)
      if not jnp.issubdtype(kept.dtype, jnp.floating):  # knows bfloat16
        yield name, kept
        continue
      resolved = resolve(recipe, name, layers[name], num_layers)
      experts = [reader.get(model, name) for model in resolved.experts]
      base = kept
      if resolved.base_model is not None:
        base = reader.get(resolved.base_model, name)
      yield name, merge_tensor(method, resolved, base, experts, name)


def merge_tensor(
  method: MergeMethod,
  resolved: Resolved,
  base: np.ndarray,
  experts: list[np.ndarray],
  name: str = '',
  seed: int = 0,
) -> np.ndarray:
  """One stored tensor, merged in float32.

  Raises:
    ValueError: if shapes differ or the number of experts does not fit.
  """
  shapes = {e.shape for e in experts} | {base.shape}
  if len(shapes) != 1:
    raise ValueError(f'cannot merge tensors of shapes {sorted(shapes)}')
  least, most = method.sources
  if len(experts) < least or (most is not None and len(experts) > most):
    raise ValueError(
      f'{method.name} takes {least} to {most or "any number of"} models, '
      f'got {len(experts)}: {list(resolved.experts)}'
    )
  stack = resident.tensor_stack(method, base, experts)
  stored = Stored(
    name,
    np.asarray(base, np.float32),
    stack,
    facts_lib.settings(method, resolved.parameters, len(experts))
    | {k: v for k, v in resolved.parameters.items() if k == 'density'},
    seed,
  )
  coefficients = {
    name: np.asarray(value, np.float32)
    for name, value in resolved.parameters.items()
  }
  merged = _compiled(method)(
    coefficients, facts_lib.compute(method, stored), stored.base, stack
  )
  return np.asarray(merged)


@functools.cache
def _compiled(method: MergeMethod):
  return jax.jit(method.merge)
