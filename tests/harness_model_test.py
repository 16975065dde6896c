"""Our models behind lm_eval against its Hugging Face backend, as recorded."""

import json
import pathlib

import numpy as np

from experiments import lm_eval
from tests import tiny_harness, tiny_language

GOLDEN = pathlib.Path(__file__).parent / 'testdata'
GOLDEN /= 'harness_lm_eval_0.4.13.json'


def compare(ours, theirs, nats=1e-4):
  """Asserts the same results and the same samples."""
  assert set(ours['results']) == set(theirs['results'])
  for task, values in theirs['results'].items():
    for key, value in values.items():
      if isinstance(value, float):
        # Perplexities are exponentials of what differs in the last bits.
        np.testing.assert_allclose(
          ours['results'][task][key], value, rtol=1e-5, err_msg=f'{task} {key}'
        )
  count = 0
  for task, rows in theirs['samples'].items():
    plain = json.loads(json.dumps(ours['samples'][task], default=str))
    mine = {(row['doc_id'], row['filter']): row for row in plain}
    assert len(mine) == len(rows)
    for row in rows:
      own = mine[row['doc_id'], row['filter']]
      assert own['arguments'] == row['arguments']
      _same(own['resps'], row['resps'], nats)
      _same(own['filtered_resps'], row['filtered_resps'], nats)
      count += len(row['resps'])
  return count


def _same(ours, theirs, nats):
  """Equal texts, flags, and log-likelihoods up to rounding."""
  if isinstance(theirs, list):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
      _same(one, other, nats)
  elif isinstance(theirs, float):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=nats)
  else:
    assert ours == theirs


def test_the_same_numbers_as_hugging_face(tmp_path):
  theirs = json.loads(GOLDEN.read_text())
  ours = lm_eval.run(
    tiny_language.write(tmp_path / 'model'),
    tiny_harness.TASKS,
    include_path=tiny_harness.write(tmp_path / 'tasks'),
    num_fewshot=2,
  )
  assert compare(ours, theirs) == 10 * (3 + 1 + 1)
  table = lm_eval.table(ours)
  right = theirs['results']['tiny_choice']['acc,none']
  assert f'tiny_choice  acc (none)  {right:.4f}' in table
