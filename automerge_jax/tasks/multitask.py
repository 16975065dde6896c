"""One model fine-tuned on the items of all tasks: what merging stands in for.

A folder as a merge has it: the model, and a head a task in `heads`; its report
is written last. It takes as many steps as the experts together.
"""

import pathlib
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.io import safetensors, tokenizers
from automerge_jax.models import base as models
from automerge_jax.models import registry
from automerge_jax.tasks import (
  adapters,
  classification,
  experts,
  finetune,
  inference,
  kinds,
  language_experts,
  probe,
  splits,
)
from automerge_jax.tasks.language_finetune import Options

FOLDER = 'multitask'
CHECKPOINTS = language_experts.CHECKPOINTS


def make(
  folder: str | pathlib.Path,
  base_folder: str | pathlib.Path,
  tasks: Sequence[classification.Task],
  options: finetune.Options,
  examples: int,
  *,
  shared_head: bool = False,
  progress: bool = True,
) -> dict[str, Any]:
  """Fine-tunes one encoder with a head a task, or finds it finished.

  Args:
    folder: of the model.
    base_folder: Hugging Face folder of the base.
    tasks: text classification tasks.
    options: how; an epoch is one over the items of all tasks.
    examples: training items of each task.
    shared_head: whether one head, probed on all items, serves all tasks; they
      must have the same classes.
    progress: whether to show a progress bar.

  Returns:
    The report, as in `train.json`.

  Raises:
    ValueError: if a finished model was made with other settings, or tasks of
      different classes shall share a head.
  """
  folder, base_folder = pathlib.Path(folder), pathlib.Path(base_folder)
  classes = [task.classes for task in tasks]
  if shared_head and len(set(map(len, classes))) > 1:
    raise ValueError(
      f'tasks with classes {classes} cannot share a head; set shared_head to '
      'False'
    )
  settings = {
    'base': safetensors.fingerprint(base_folder),
    'tasks': {task.name: task.max_tokens for task in tasks},
    'examples': examples,
    'shared_head': shared_head,
    **_plain(options),
  }
  report = _finished(folder, settings)
  if report is not None:
    return report
  begin = time.perf_counter()
  model = registry.load(base_folder)
  encoded, labels, of = [], [], []
  for index, task in enumerate(tasks):
    items = splits.train_items(task.name, examples)
    encoded += kinds.of(task).encode(task, items, model.family, base_folder)[0]
    labels.append(np.asarray([item.label for item in items], np.int32))
    of.append(np.full(len(items), index))
  buckets = classification.bucket(
    encoded, np.concatenate(of), np.concatenate(labels), options.lengths
  )
  features_of = inference.features_fn(model.family)
  features = inference.in_order(
    [features_of(model.params, items) for items in buckets],
    buckets,
    len(encoded),
  )
  heads = _probed(features, labels, classes, shared_head)
  first = np.cumsum([0, *(0 if shared_head else len(c) for c in classes)])
  trained = finetune.train(
    model.family,
    model.params,
    {
      'kernel': np.concatenate([kernel for kernel, _ in heads], 1),
      'bias': np.concatenate([bias for _, bias in heads]),
    },
    encoded,
    np.concatenate([own + at for own, at in zip(labels, first, strict=False)]),
    options,
    checkpoints=folder / CHECKPOINTS,
    progress=FOLDER if progress else None,
    groups=None
    if shared_head
    else np.repeat(np.arange(len(tasks)), [len(c) for c in classes]),
  )
  folder.mkdir(parents=True, exist_ok=True)
  experts.copy_companions(base_folder, folder)
  safetensors.write(folder, models.unpack(model.family.keys, trained['trunk']))
  for task, at in zip(tasks, first, strict=False):
    place = folder / experts.HEADS / task.name
    place.mkdir(parents=True, exist_ok=True)
    mine = slice(at, at + len(task.classes))
    kernel, bias = trained['head']['kernel'], trained['head']['bias']
    head = experts.Head(task, kernel[:, mine].copy(), bias[mine].copy())
    experts.write_head(place, head)
  return _close(folder, settings, begin)


def make_language(
  folder: str | pathlib.Path,
  base_folder: str | pathlib.Path,
  tasks: Mapping[Any, int],
  options: Options,
  progress: bool = True,
) -> dict[str, Any]:
  """Fine-tunes one language model on the answers of all tasks.

  Args:
    folder: of the model; its adapter is kept in `adapter` there.
    base_folder: Hugging Face folder of the base.
    tasks: training items of each task.
    options: how; an epoch is one over the items of all tasks.
    progress: whether to show a progress bar.

  Returns:
    The report, as in `train.json`.

  Raises:
    ValueError: if a finished model was made with other settings.
  """
  folder, base_folder = pathlib.Path(folder), pathlib.Path(base_folder)
  settings = {
    'base': safetensors.fingerprint(base_folder),
    'tasks': {task.name: count for task, count in tasks.items()},
    **_plain(options),
  }
  report = _finished(folder, settings)
  if report is not None:
    return report
  begin = time.perf_counter()
  tokenizer, encoded = tokenizers.load(base_folder), []
  for task, count in tasks.items():
    items = splits.train_items(task.name, count)
    encoded += language_experts.encode(tokenizer, task, items)
  adapter = folder / 'adapter'
  language_experts.train(
    folder,
    base_folder,
    adapter,
    encoded,
    options,
    settings,
    FOLDER if progress else None,
  )
  if options.rank:
    adapters.write_merged(folder, base_folder, adapter)
  return _close(folder, settings, begin)


def heads(folder: str | pathlib.Path, tasks: Sequence[str]) -> dict[str, Any]:
  """Stacked heads of a model's tasks, as scoring takes them."""
  places = [pathlib.Path(folder) / experts.HEADS / name for name in tasks]
  found = [
    experts.read_head(place) if place.is_dir() else None for place in places
  ]
  return classification.stack_heads(
    [None if head is None else (head.kernel, head.bias) for head in found]
  )


def _probed(features, labels, classes, shared_head: bool):
  """(kernel [d, C], bias [C]) of each task, or one of all."""
  if shared_head:
    return [
      probe.fit(features, np.concatenate(labels), num_classes=len(classes[0]))
    ]
  bounds = np.cumsum([len(own) for own in labels])[:-1]
  return [
    probe.fit(mine, own, num_classes=len(names))
    for mine, own, names in zip(
      np.split(features, bounds), labels, classes, strict=True
    )
  ]


def _plain(options: finetune.Options) -> dict[str, Any]:
  values = vars(options) | {'lengths': list(options.lengths)}
  return {k: v for k, v in values.items() if k != 'checkpoint_every'}


def _finished(folder: pathlib.Path, settings: Mapping[str, Any]):
  report = experts.read_report(folder)
  if report is not None:
    experts.check_settings(folder, report['settings'], settings)
  return report


def _close(
  folder: pathlib.Path, settings: Mapping[str, Any], begin: float
) -> dict[str, Any]:
  seconds = round(time.perf_counter() - begin, 1)
  report = {'settings': settings, 'environment': {'seconds': seconds}}
  experts.write_json(folder / experts.REPORT, report)
  shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
  return report
