"""What Fisher and RegMean merging need of a suite's experts, kept in folders.

Of classifiers as `experiments.statistics` measures them. Of language models the
information is that of answers drawn from the model, of the layers that differ
from the base only; Gram matrices are of prompts with their right answers.
"""

import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import tokenizers
from automerge_jax.merging.measured import Statistics
from automerge_jax.models import base as models
from automerge_jax.search import baselines, calibrations
from automerge_jax.search.job import BASE, Job
from automerge_jax.statistics import folder, grams
from automerge_jax.tasks import (
  classification,
  experts,
  language_experts,
  splits,
)
from experiments import statistics

CLASSIFIED, WRITTEN = 200, 64  # training items a task


def of_experts(job: Job, workdir: pathlib.Path) -> dict[str, Statistics]:
  """Statistics of each expert on its own task, measured where not kept.

  Args:
    job: of a suite, whose experts are named like their tasks.
    workdir: a folder for each expert is made there.
  """
  places = {name: workdir / name for name in job.experts}
  lacking = [n for n, p in places.items() if not (p / folder.ABOUT).is_file()]
  classified = all(task.kind in experts.WITH_HEAD for task in job.tasks)
  for name in lacking if classified else ():
    statistics.run(job.folders[name], name, places[name], n=CLASSIFIED)
  if lacking and not classified:
    _language(job, workdir, lacking)
  return {
    name: folder.load(place, job.fingerprints[name])
    for name, place in places.items()
  }


def _language(job: Job, workdir: pathlib.Path, lacking: Sequence[str]) -> None:
  """Measures language experts, each on training items of its own task."""
  items = {
    name: splits.train_items(place, WRITTEN)
    for name, place in job.references.items()
  }
  calibration = calibrations.build(
    job.items(items), job.heads, job.experts, 0, 'sampled', 'none'
  )
  measure = calibrations.measure(
    job.family,
    job.folders,
    job.tensors,
    BASE,
    job.experts,
    calibration,
    static=True,
  )
  # At the experts themselves, whatever the recipe.
  measured = measure(baselines.uniform(job.experts))
  for task in job.tasks:
    name = task.name
    if name not in lacking:
      continue
    information = measured[name]['fisher']
    tensors = job.tensors(name)
    # Layers that all experts share have no part in it.
    fisher = {
      stored: information.get(stored, np.zeros(tensor.shape, np.float32))
      for stored, tensor in tensors.items()
    }
    folder.save(
      workdir / name,
      {
        'model': job.fingerprints[name],
        'task': name,
        'split': 'train',
        'n': WRITTEN,
      },
      fisher,
      _grams(job, task, items[name]),
    )


def _grams(job: Job, task, items) -> dict[str, np.ndarray]:
  texts = language_experts.encode(
    tokenizers.load(job.folders[BASE]), task, items
  )
  zeros = [0] * len(texts)
  return grams.measure(
    job.family,
    jax.tree.map(
      jnp.asarray, models.pack(job.family.keys, job.tensors(task.name))
    ),
    classification.bucket([text.ids for text in texts], zeros, zeros),
    len(texts),
  )
