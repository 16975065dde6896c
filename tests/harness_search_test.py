"""lm_eval's tasks on the path of a search: its items get lm_eval's scores."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.models import registry
from automerge_jax.search import evaluate
from automerge_jax.tasks import (
  definitions,
  division,
  harness,
  harness_docs,
  itemset,
  kinds,
)
from automerge_jax.types import UNPARSED
from tests import tiny_harness, tiny_language

GOLDEN = pathlib.Path(__file__).parent / 'testdata'
GOLDEN /= 'harness_lm_eval_0.4.13.json'
# Room for all of it in the model's 128 tokens, as lm_eval leaves it.
LONGEST = {'tiny_choice': 128, 'tiny_generation': 120, 'tiny_perplexity': 128}


@pytest.fixture(scope='module')
def scored(tmp_path_factory):
  """Items and their scores, by task, of all test documents."""
  scratch = tmp_path_factory.mktemp('harness')
  folder = tiny_harness.write(scratch / 'tasks')
  model = tiny_language.write(scratch / 'model')
  loaded = registry.load(model)
  tasks, items = [], {}
  for name in tiny_harness.TASKS:
    shots = None if name == 'tiny_perplexity' else 2
    wanted = harness_docs.Wanted(
      name, shots, include_path=str(folder), max_tokens=LONGEST[name]
    )
    made = harness.read(wanted, force_test_split=True)
    parts = division.divide(made)
    chosen = parts['heldout']
    if name == 'tiny_perplexity':  # which has no other documents
      chosen = tuple(item for some in parts.values() for item in some)
    tasks.append(made.task)
    items[made.task.name] = definitions.render(made, chosen, model)
  together = itemset.build(tasks, items, loaded.family, model)
  raw = evaluate.scorer(loaded.family)(
    jax.tree.map(jnp.asarray, loaded.params),
    {},
    kinds.arrays(together),
    len(together),
  )
  scores = evaluate.finish(together, jax.device_get(raw))
  assert scores.failure is None
  found = {}
  for index, name in enumerate(tiny_harness.TASKS):
    at = np.flatnonzero(together.task == index)
    assert len(at) == 10
    found[name] = [
      (
        together.items[i],
        scores.score[i],
        scores.log_likelihood[i],
        scores.flags[i],
      )
      for i in at
    ]
  return found


def _theirs(task):
  return json.loads(GOLDEN.read_text())['samples'][task]


def test_choices(scored):
  theirs = {
    tuple(map(tuple, row['arguments'])): row for row in _theirs('tiny_choice')
  }
  for item, score, nats, _ in scored['tiny_choice']:
    row = theirs[tuple((item.text, choice) for choice in item.choices)]
    sums = np.array([resp[0] for resp in row['filtered_resps']])
    assert score == row['acc']
    expected = sums[item.label] - np.logaddexp.reduce(sums)
    np.testing.assert_allclose(nats, expected, atol=1e-4)
  mean = np.mean([score for _, score, _, _ in scored['tiny_choice']])
  assert 0 < mean < 1


def test_generation(scored):
  theirs = {r['arguments'][0][0]: r for r in _theirs('tiny_generation')}
  for item, score, _, flags in scored['tiny_generation']:
    row = theirs[item.text]
    assert score == row['exact_match']
    assert bool(flags & UNPARSED) == (row['filtered_resps'][0] == '[invalid]')
  assert {score for _, score, _, _ in scored['tiny_generation']} == {0.0, 1.0}


def test_perplexity(scored):
  theirs = {r['arguments'][0][0]: r for r in _theirs('tiny_perplexity')}
  for item, score, nats, _ in scored['tiny_perplexity']:
    expected, words = theirs[item.choices[0]]['word_perplexity']
    np.testing.assert_allclose(nats, expected, atol=1e-4)
    np.testing.assert_allclose(score, np.exp(nats / words), rtol=1e-5)
