"""An exported language model scores in transformers as the report says."""

import json
import os
import pathlib

import numpy as np
import pytest

from automerge_jax import delivery, pipeline
from automerge_jax.search import job as jobs
from automerge_jax.search.ledger import Ledger
from automerge_jax.tasks import answers, sealed
from configs import lm_suite
from experiments import choices
from tests import own_models_test, tiny_own

pytestmark = pytest.mark.oracle


def _compare(ask_peer, settings, workdir):
  """Item by item on held-out items; returns how many were compared."""
  job = jobs.load(settings)
  summary = json.loads((workdir / 'summary.json').read_text())
  key = summary['models']['merged']['recipe_hash']
  task = np.repeat(np.arange(len(job.tasks)), settings.heldout)
  with Ledger(workdir / 'ledger.sqlite') as ledger:
    ours = ledger.scores(key, f'heldout/{job.setting}', list(job.metrics), task)
  items = {
    one.name: sealed.heldout_items(
      job.references[one.name], settings.heldout, settings.force_test_split
    )
    for one in job.tasks
  }
  chosen = [t for t in job.tasks if t.kind == 'choice']
  (write,) = (t for t in job.tasks if t.kind == 'generation')
  asked = [
    (item.text, list(item.choices)) for t in chosen for item in items[t.name]
  ]
  found = ask_peer(
    'oracle/language_scores_peer.py',
    workdir / delivery.EXPORTED,
    choices=np.asarray(json.dumps(asked)),
    prompts=np.asarray(json.dumps([i.text for i in items[write.name]])),
    new_tokens=np.asarray(write.max_new_tokens),
  )
  right = [
    answers.read(write, _cut(text, write.stop), item.answers).right
    for text, item in zip(
      json.loads(str(found['texts'])), items[write.name], strict=True
    )
  ]
  labels = [item.label for t in chosen for item in items[t.name]]
  kinds = np.asarray([one.kind for one in job.tasks])
  np.testing.assert_array_equal(
    ours.score[kinds[task] == 'choice'], found['best'] == labels
  )
  np.testing.assert_array_equal(ours.score[kinds[task] == 'generation'], right)
  return len(labels) + len(right)


def _cut(text, stop):
  places = [text.find(s) for s in stop if s in text]
  return text[: min(places)] if places else text


def test_a_tiny_export_scores_alike(ask_peer, tmp_path):
  folder = tiny_own.write(tmp_path / 'own')
  settings = own_models_test._settings(
    folder, ('answer', 'write'), gradient_steps=0
  )
  pipeline.run(settings, tmp_path / 'run', 'command')
  assert _compare(ask_peer, settings, tmp_path / 'run') == 16


@pytest.mark.parametrize(
  'workdir', [pathlib.Path(p) for p in os.environ.get('LM_SEARCH', '').split()]
)
def test_the_export_of_the_lm_suite_scores_alike(ask_peer, workdir):
  """Of finished searches of configs/lm_suite.py: LM_SEARCH names folders."""
  settings = choices.settings(lm_suite.get_config())
  assert _compare(ask_peer, settings, workdir) == 800
