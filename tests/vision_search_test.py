"""The main job on image experts: search, export, held-out report."""

import dataclasses
import json

import numpy as np
import pytest

from automerge_jax import delivery, pipeline
from automerge_jax.models import registry
from automerge_jax.tasks import experts, finetune, suite, vision_sources
from automerge_jax.tasks.sources import Source
from experiments import evaluate
from tests import tiny_suite, tiny_vision

TASKS = ('tiny_sides', 'tiny_top')


def _top() -> Source:
  """Whether the bright side is the upper one."""
  found = tiny_vision.source()
  return Source(
    ('no', 'yes'),
    tuple(e._replace(label=int(e.label == 2)) for e in found.train),
  )


@pytest.fixture(scope='module', autouse=True)
def tasks():
  """The tiny tasks, for this module."""
  with pytest.MonkeyPatch.context() as patch:
    for name, make in zip(TASKS, (tiny_vision.source, _top), strict=True):
      patch.setitem(vision_sources.SOURCES, name, make)
      patch.setitem(vision_sources.IMAGE_SIZES, name, 12)
    yield


def test_image_experts_are_searched_exported_and_reported(tmp_path):
  base = tiny_vision.write(tmp_path / 'tiny')
  folder = tmp_path / 'experts'
  base = experts.keep_base(base, folder)
  options = finetune.Options(
    epochs=2, batch_size=16, learning_rate=3e-3, checkpoint_every=0
  )
  for name in TASKS:
    suite.make_expert(
      folder / name,
      base,
      vision_sources.make_task(name),
      options,
      examples=96,
      select=10,
      heldout=10,
      progress=False,
    )
  settings = dataclasses.replace(
    tiny_suite.settings(tmp_path),
    tasks=TASKS,
    base=base,
    experts={name: folder / name for name in TASKS},
    components='coarse',
    candidates=18,
    rungs=(12, 40),
    gradient_steps=4,
    minibatches=2,
    weights=(0.5,),
    ties_densities=(0.5,),
    select=30,
    heldout=50,
  )
  result = pipeline.run(settings, tmp_path / 'run', 'this test')
  merged = result['models']['merged']['heldout']['tasks']
  for name in TASKS:
    again = evaluate.run(
      tmp_path / 'run' / delivery.EXPORTED, name, n=settings.heldout
    )
    assert again['accuracy'] == pytest.approx(merged[name]['accuracy'])
    np.testing.assert_allclose(
      again['log_likelihood'], merged[name]['log_likelihood'], atol=1e-4
    )
  exported = tmp_path / 'run' / delivery.EXPORTED
  assert registry.load(exported).family.name == 'dinov2'
  told = json.loads((exported / 'preprocessor_config.json').read_text())
  assert told == tiny_vision.PREPROCESSING
