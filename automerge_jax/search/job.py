"""What a search job loads once: models, heads, tasks."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import checkpoints
from automerge_jax.merging import resolve
from automerge_jax.merging.calibration import Calibration
from automerge_jax.merging.layers import layer_of
from automerge_jax.models import base as models
from automerge_jax.models import registry as families
from automerge_jax.recipe import Recipe
from automerge_jax.search import calibrations, space
from automerge_jax.search.selection import BASE
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import (
  classification,
  definitions,
  experts,
  itemset,
  splits,
)
from automerge_jax.tasks.partition import Item
from automerge_jax.types import Family, MergeMethod

__all__ = ['BASE', 'Job', 'load']


@dataclasses.dataclass(frozen=True)
class Job:
  """Everything that depends on the checkpoints and tasks alone.

  Attributes:
    family: of base and experts.
    method: the merge method that is searched.
    folders: checkpoint of each model, by the name that recipes use; `base` is
      the base.
    fingerprints: SHA-256 of each model's weights.
    heads: stacked task heads, on the device; a task without one has zeros.
    tasks: what each task is, in the order of `references`.
    references: tasks as the settings name them, by task name.
    definitions: likewise, with where their items come from.
    setting: hash of all that item scores depend on besides recipe and items.
    derived: names of experts that are merges themselves.
    merge: from a recipe to stored tensors; measures what the recipe does not
      bring where the method is dynamic.
    calibration: what a dynamic method measures on; None for the others.
    measure: how it is measured for a recipe; None for the others.
  """

  family: Family
  method: MergeMethod
  folders: Mapping[str, pathlib.Path]
  fingerprints: Mapping[str, str]
  heads: Mapping[str, Any]
  tasks: tuple[Any, ...]
  references: Mapping[str, str]
  definitions: Mapping[str, definitions.Definition]
  setting: str
  derived: tuple[str, ...] = ()
  merge: Callable[[Recipe], dict[str, np.ndarray]] | None = None
  calibration: Calibration | None = None
  measure: calibrations.Measure | None = None

  @property
  def experts(self) -> list[str]:
    """Names of the experts, in the order of the stack."""
    return [name for name in self.folders if name != BASE]

  @property
  def originals(self) -> list[str]:
    """Experts that are no merges."""
    return [name for name in self.experts if name not in self.derived]

  @property
  def metrics(self) -> dict[str, str]:
    """Metric of each task, by its name."""
    return {task.name: task.metric for task in self.tasks}

  def items(self, chosen: Mapping[str, Sequence[Item]]) -> itemset.ItemSet:
    """Encoded items of every task."""
    folder = self.folders[BASE]
    told = {
      name: definitions.render(self.definitions[name], items, folder)
      for name, items in chosen.items()
    }
    return itemset.build(self.tasks, told, self.family, folder)

  def tensors(self, model: str) -> dict[str, np.ndarray]:
    """Stored tensors of one model."""
    return checkpoints.read(self.folders[model])

  @property
  def layers(self) -> dict[str, int | None]:
    """Layer of each stored tensor, None outside the layers."""
    return {k.stored: layer_of(k.stored) for k in self.family.keys}

  def recipe_hash(self, recipe: Recipe) -> str:
    """Effective hash of a recipe."""
    return resolve.effective_hash(recipe, self.layers, self.family.num_layers)


def load(settings: Settings) -> Job:
  """Reads tasks and heads, and checks the checkpoints.

  Raises:
    ValueError: if base and key table, or an expert and the base, do not match,
      or a task cannot be done with these models.
  """
  folders = {BASE: settings.base, **settings.experts}
  with checkpoints.open_checkpoint(settings.base) as source:
    stored = source.names()
  family = families.family_of(settings.base, stored)
  models.check_keys(family, stored)
  fingerprints = {
    name: checkpoints.fingerprint(folder) for name, folder in folders.items()
  }
  found = experts.heads_of(settings.experts.values())
  tasks, heads, references, defined = [], [], {}, {}
  for reference in settings.tasks:
    definition = definitions.read(
      reference, force_test_split=settings.force_test_split
    )
    task = definition.task
    if task.name in references:
      raise ValueError(
        f'{reference!r} and {references[task.name]!r} are both called '
        f'{task.name!r}; name one of them otherwise'
      )
    references[task.name] = reference
    defined[task.name] = definition
    if task.kind in experts.WITH_HEAD:
      if task.name not in found:
        raise ValueError(
          f'no expert has a head for the task {task.name!r}; there are heads '
          f'for {sorted(found)}'
        )
      task = found[task.name].task
      heads.append((found[task.name].kernel, found[task.name].bias))
    else:
      heads.append(None)
    tasks.append(task)
  stacked = classification.stack_heads(heads)
  digest = hashlib.sha256()
  for name in sorted(stacked):
    digest.update(np.ascontiguousarray(stacked[name]).tobytes())
  told = [_told(task) + defined[task.name].fingerprint for task in tasks]
  method = space.method(settings)
  depends = [fingerprints, digest.hexdigest(), told]
  if method.dynamic:  # scores depend on what is measured as well
    depends.append([settings.seed, *_how(settings).values()])
  if settings.dtype != 'float32':
    depends.append(settings.dtype)
  setting = hashlib.sha256(json.dumps(depends, sort_keys=True).encode())
  job = Job(
    family=family,
    method=method,
    folders=folders,
    fingerprints=fingerprints,
    heads=jax.tree.map(jnp.asarray, stacked),
    tasks=tuple(tasks),
    references=references,
    definitions=defined,
    setting=setting.hexdigest()[:12],
    derived=settings.derived,
  )
  return _calibrated(job, settings) if method.dynamic else job


def _calibrated(job: Job, settings: Settings) -> Job:
  """A job whose method measures information on items."""
  chosen = {
    name: splits.search_items(
      place,
      settings.fisher_examples,
      settings.force_test_split,
      settings.seed,
    )
    for name, place in job.references.items()
  }
  calibration = calibrations.build(
    job.items(chosen),
    job.heads,
    job.experts,
    settings.seed,
    settings.fisher_estimate,
    settings.fisher_normalisation,
  )
  measure = calibrations.measure(
    job.family,
    job.folders,
    job.tensors,
    BASE,
    job.experts,
    calibration,
    settings.fisher_at == 'expert',
  )
  return dataclasses.replace(
    job,
    calibration=calibration,
    measure=measure,
    merge=calibrations.merger(job.folders, measure),
  )


def _how(settings: Settings) -> dict[str, Any]:
  """How information is measured."""
  return {
    field.name: getattr(settings, field.name)
    for field in dataclasses.fields(settings)
    if field.name.startswith('fisher_')
  }


def _told(task: Any) -> str:
  """A task's fields as text, but not where its files are."""
  fields = {f.name: getattr(task, f.name) for f in dataclasses.fields(task)}
  return repr({name: v for name, v in fields.items() if name != 'folder'})
