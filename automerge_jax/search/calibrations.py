"""What dynamic methods measure in a search, and of what a search found.

A candidate's information is measured while it is merged, on the device; a
recipe's by streaming the parameters that it was measured at.
"""

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.merging import calibration as calibrations
from automerge_jax.merging import registry, streaming
from automerge_jax.merging.calibration import Calibration
from automerge_jax.models import base as models
from automerge_jax.recipe import Recipe
from automerge_jax.search import lower, shared
from automerge_jax.statistics import examples
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import ExpertStack, Family, Params

# `recipe -> {model: {'fisher': {stored name: array}}}`.
Measure = Callable[[Recipe], dict[str, dict[str, dict[str, np.ndarray]]]]


def build(
  items: ItemSet,
  heads: Mapping[str, Any],
  experts: Sequence[str],
  seed: int,
  estimate: str,
  normalisation: str,
) -> Calibration:
  """Items of each expert's own task, on the device.

  Args:
    items: of all tasks.
    heads: stacked task heads.
    experts: names, in the order of the stack.
    seed: of draws.
    estimate, normalisation: see `Calibration`.

  Raises:
    ValueError: if an expert has no task of its name, or a task none of these
      estimates.
  """
  lacking = sorted(set(experts) - set(items.tasks))
  if lacking:
    raise ValueError(
      f'experts {lacking} have no task of their name, on which their Fisher '
      f'information could be measured; tasks are {list(items.tasks)}: call '
      "each expert's folder like its task"
    )
  finite = all(t.kind in examples.FINITE for t in items.definitions)
  if estimate == 'exact' and not finite:
    told = {t.name: t.kind for t in items.definitions}
    raise ValueError(
      "the estimate 'exact' needs tasks with a set of answers, got "
      f"{told}; set fisher_estimate to 'sampled' or 'label'"
    )
  return Calibration(
    examples=examples.build(items),
    heads=heads,
    task=jnp.asarray([items.tasks.index(e) for e in experts], jnp.int32),
    key=jax.random.key(seed),
    estimate=estimate,
    normalisation=normalisation,
  )


def measure(
  family: Family,
  folders: Mapping[str, pathlib.Path],
  tensors: Callable[[str], Mapping[str, np.ndarray]],
  base: str,
  experts: Sequence[str],
  calibration: Calibration,
  static: bool,
) -> Measure:
  """How the information that a recipe weights with is measured again.

  Args:
    family: of all models.
    folders: checkpoint of each model.
    tensors: of a model, by stored name.
    base: its name.
    experts: names, in the order of the calibration.
    calibration: of whole models.
    static: information is that of the experts, whatever the recipe.
  """

  @functools.cache
  def prepared() -> tuple[Family, Any]:
    below = tensors(base)
    count = lower.depth(family, below, [tensors(name) for name in experts])
    stack = ExpertStack({}, {}, {})
    if count:
      lowest = lower.lowest(family, below, count)
      stack = dataclasses.replace(stack, below=lowest)
    own, given, fixed = shared.above(family, stack, calibration)

    @jax.jit
    def run(given: Calibration, fixed: Params | None, k, params) -> Params:
      return calibrations.information(own, given, k, params, fixed=fixed)

    return own, functools.partial(run, given, fixed)

  def measured(recipe: Recipe):
    own, run = prepared()
    found = {}
    for k, name in enumerate(experts):
      merged = tensors(name) if static else scaled(recipe, name, folders)
      params = models.pack(own.keys, merged)
      information = run(jnp.int32(k), jax.tree.map(jnp.asarray, params))
      fisher = models.unpack(own.keys, jax.device_get(information))
      found[name] = {'fisher': fisher}
    return found

  return measured


def scaled(
  recipe: Recipe, model: str, folders: Mapping[str, pathlib.Path]
) -> dict[str, np.ndarray]:
  """θ₀ + λτ of one model: where a recipe measures its information."""

  def only(part):
    return dataclasses.replace(
      part,
      merge_method=None,
      parts=tuple(map(only, part.parts)),
      sources=tuple(s for s in part.sources if s.model == model),
    )

  alone = dataclasses.replace(
    recipe,
    merge_method='task_arithmetic',
    slices=tuple(map(only, recipe.slices)),
  )
  return streaming.merge(alone, folders)


def merger(
  folders: Mapping[str, pathlib.Path], measure: Measure | None
) -> Callable[[Recipe], dict[str, np.ndarray]]:
  """Merges recipes to tensors; measures what they need and do not bring."""

  def merge(recipe: Recipe) -> dict[str, np.ndarray]:
    dynamic = registry.get(recipe.merge_method, recipe.semantics).dynamic
    if not dynamic or recipe.statistics or measure is None:
      return streaming.merge(recipe, folders)
    return streaming.merge(recipe, folders, measure(recipe))

  return merge
