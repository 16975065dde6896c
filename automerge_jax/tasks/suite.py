"""Making experts: base and items in, finished expert folders out."""

import pathlib
import platform
import shutil
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from automerge_jax.io import safetensors
from automerge_jax.models import registry
from automerge_jax.tasks import (
  classification,
  experts,
  finetune,
  images,
  inference,
  kinds,
  probe,
  sealed,
  sources,
  splits,
  vision_sources,
)
from automerge_jax.tasks.partition import Item

CHECKPOINTS = 'checkpoints'


def make_expert(
  folder: str | pathlib.Path,
  base_folder: str | pathlib.Path,
  task: classification.Task | images.Task,
  options: finetune.Options,
  *,
  examples: int,
  select: int,
  heldout: int,
  head_of: Sequence[str] = (),
  progress: bool = True,
) -> dict[str, Any]:
  """Fine-tunes one expert, or finds it finished.

  A run that was killed continues at its newest resume point.

  Args:
    folder: of the expert.
    base_folder: Hugging Face folder of the base.
    task: what it is for.
    options: how.
    examples: training items.
    select: items to judge the options by.
    heldout: items of the reported accuracy.
    head_of: tasks of the same classes on whose training items the head is
      probed, all of them together; by default the expert's own.
    progress: whether to show a progress bar.

  Returns:
    The report, as in `train.json`.

  Raises:
    ValueError: if a finished expert was made with other settings.
  """
  folder = pathlib.Path(folder)
  settings = {
    'base': safetensors.fingerprint(base_folder),
    'task': task.name,
    experts.size(task): getattr(task, experts.size(task)),
    'examples': examples,
    'select': select,
    'heldout': heldout,
    **_plain(options),
  }
  if head_of:
    settings['head_of'] = list(head_of)
  report = experts.read_report(folder)
  if report is not None:
    experts.check_settings(folder, report['settings'], settings)
    return report
  begin = time.perf_counter()
  model = registry.load(base_folder)
  encode = kinds.of(task).encode

  def prepare(items: Sequence[Item]):
    encoded, _ = encode(task, items, model.family, base_folder)
    labels = np.array([item.label for item in items], np.int32)
    zeros = [0] * len(items)
    if task.kind == images.Task.kind:
      return encoded, labels, images.bucket(encoded, zeros, labels)
    buckets = classification.bucket(encoded, zeros, labels, options.lengths)
    return encoded, labels, buckets

  encoded, labels, buckets = prepare(splits.train_items(task.name, examples))
  judged = {
    'select': prepare(sealed.select_items(task.name, select))[2],
    'heldout': prepare(sealed.heldout_items(task.name, heldout))[2],
  }
  sizes = {'select': select, 'heldout': heldout}
  features_of = inference.features_fn(model.family)
  scores_of = inference.scores_fn(model.family)
  base_params = jax.device_put(model.params)
  probed_on = [prepare(splits.train_items(t, examples)) for t in head_of]
  probed_on = probed_on or [(encoded, labels, buckets)]
  features = [
    inference.in_order(
      [features_of(base_params, items) for items in made], made, examples
    )
    for _, _, made in probed_on
  ]
  kernel, bias = probe.fit(
    np.concatenate(features),
    np.concatenate([classes for _, classes, _ in probed_on]),
    num_classes=len(task.classes),
    l2=10.0 if task.kind == images.Task.kind else 100.0,
  )

  def judge(params, head):
    heads = classification.stack_heads([(head['kernel'], head['bias'])])
    return {
      split: _summary(
        [scores_of(params, heads, i) for i in buckets], buckets, sizes[split]
      )
      for split, buckets in judged.items()
    }

  probed = judge(base_params, {'kernel': kernel, 'bias': bias})
  trained = finetune.train(
    model.family,
    model.params,
    {'kernel': kernel, 'bias': bias},
    encoded,
    labels,
    options,
    checkpoints=folder / CHECKPOINTS,
    progress=task.name if progress else None,
  )
  report = {
    'settings': settings,
    'classes': list(task.classes),
    'expert': judge(trained['trunk'], trained['head']),
    'probed_base': probed,
    'environment': {
      'seconds': round(time.perf_counter() - begin, 1),
      'jax': jax.__version__,
      'python': platform.python_version(),
    },
  }
  head = experts.Head(task, trained['head']['kernel'], trained['head']['bias'])
  experts.write(
    folder, base_folder, model.family, trained['trunk'], head, report
  )
  shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
  return report


def make_task(
  name: str, max_tokens: int = 64, image_size: int | None = None
) -> classification.Task | images.Task:
  """A task of a suite, with the class names of its source.

  Args:
    name: of the source.
    max_tokens: texts are cut to so many.
    image_size: pixels a side; None for what suits the images.
  """
  if name in vision_sources.SOURCES:
    return vision_sources.make_task(name, image_size)
  return classification.Task(name, sources.read(name).classes, max_tokens)


def _plain(options: finetune.Options) -> dict[str, Any]:
  values = vars(options) | {'lengths': list(options.lengths)}
  if options.train_head:
    del values['train_head']
  return {k: v for k, v in values.items() if k != 'checkpoint_every'}


def _summary(scores, buckets, total: int) -> dict[str, float]:
  score = inference.in_order([s.score for s in scores], buckets, total)
  nats = inference.in_order([s.log_likelihood for s in scores], buckets, total)
  return {
    'accuracy': round(float(score.mean()), 6),
    'log_likelihood': round(float(nats.mean()), 6),
    'n': total,
  }
