"""Texts to numbers as lm-eval's Hugging Face backend does it."""

import json
import math
import pathlib

import numpy as np
import pytest

from automerge_jax.models import registry
from automerge_jax.tasks import (
  choice,
  continuations,
  likelihood,
  packing,
  perplexity,
)
from automerge_jax.tasks.packing import Request
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED
from tests import tiny_text

GOLDEN = pathlib.Path(__file__).parent / (
  'testdata/likelihood_lm_eval_0.4.13.npz'
)


@pytest.fixture(scope='module')
def bare(tmp_path_factory):
  return tiny_text.write(tmp_path_factory.mktemp('bare'), begins=False)


@pytest.fixture(scope='module')
def begun(tmp_path_factory):
  return tiny_text.write(tmp_path_factory.mktemp('begun'), begins=True)


@pytest.fixture(scope='module')
def family(bare):
  return registry.load(bare).family


def _words(coder, request):
  """Both parts as text pieces."""
  return tuple(
    [coder.tokenizer.id_to_token(i) for i in part] for part in request
  )


@pytest.mark.parametrize('case', ['bare', 'begun'])
def test_numbers_equal_lm_evals(case, request):
  folder = request.getfixturevalue(case)
  with np.load(GOLDEN) as file:
    theirs = {name: file[f'{case}/{name}'] for name in ('nats', 'rolling')}
    said = file[f'{case}/greedy']
  model = registry.load(folder)
  coder = continuations.coder(folder)
  cut = [
    packing.truncate(whole, tiny_text.LONGEST)
    for whole in continuations.requests(coder, tiny_text.PAIRS)
  ]
  texts = [('', text) for text in tiny_text.TEXTS]
  windows = [
    perplexity.rolling(whole, tiny_text.LONGEST)
    for whole in perplexity.whole_texts(coder, texts)
  ]
  assert {was for _, was in cut} == {True, False}
  assert {len(some) for some in windows} > {1, 2}
  asked = [one for one, _ in cut] + [w for some in windows for w in some]
  nats, greedy = likelihood.log_likelihoods(model.family, model.params, asked)
  rest = iter(nats[len(cut) :])
  rolling = [sum(next(rest) for _ in some) for some in windows]
  np.testing.assert_allclose(nats[: len(cut)], theirs['nats'], atol=1e-4)
  np.testing.assert_allclose(rolling, theirs['rolling'], atol=2e-4)
  np.testing.assert_array_equal(greedy[: len(cut)], said)


def test_tokens_of_prompt_and_continuation(bare, begun):
  coder = continuations.coder(bare)
  joined, empty, moved = continuations.requests(
    coder, [('a ca', 'ts hat'), ('', 'the'), ('on ', ' yes')]
  )
  # 'cat' joins what the prompt alone has apart, as lm-eval has it.
  assert _words(coder, joined)[0] == ['a', 'Ġc', 'a']
  assert _words(coder, empty) == ([tiny_text.END], ['t', 'he'])
  assert _words(coder, moved) == (['on'], ['Ġ', 'Ġyes'])
  coder = continuations.coder(begun)
  alone, again = continuations.requests(
    coder, [('', 'on'), (tiny_text.BEGIN + 'on', ' yes')]
  )
  assert _words(coder, alone) == ([tiny_text.BEGIN], ['on'])
  assert _words(coder, again) == ([tiny_text.BEGIN, 'on'], ['Ġyes'])


def test_encoder_and_decoder_texts_are_tokenised_apart(begun, tmp_path):
  folder = tiny_text.write(tmp_path, begins=True)
  with pytest.raises(ValueError, match='names no decoder_start_token_id'):
    continuations.coder(folder, encoded=True)
  config = json.loads((folder / 'config.json').read_text())
  config['decoder_start_token_id'] = 1
  (folder / 'config.json').write_text(json.dumps(config))
  coder = continuations.coder(folder, encoded=True)
  assert coder.decoder_start == 1
  (found,) = continuations.requests(coder, [('a ca', 'ts')])
  assert _words(coder, found) == ([tiny_text.BEGIN, 'a', 'Ġc', 'a'], ['t', 's'])


def test_what_cannot_be_tokenised_is_refused(bare, tmp_path):
  coder = continuations.coder(bare)
  with pytest.raises(ValueError, match="continuation '' behind 'the cat'"):
    continuations.requests(coder, [('the cat', '')])
  folder = tiny_text.write(tmp_path, begins=False)
  for name in ('config.json', 'tokenizer_config.json'):
    (folder / name).write_text('{}')
  with pytest.raises(ValueError, match='names no bos_token or eos_token'):
    continuations.coder(folder)


def test_choices_of_items(bare, family):
  task = choice.Task('cats', 14, 'acc_norm')
  items = [
    Item('short', 'is it there?', 1, (' yes', ' no', ' on the mat')),
    Item('long', 'on and ' * 9 + 'on?', 0, (' yes', ' é')),
  ]
  queries, flags = choice.encode(task, items, family, bare)
  assert flags.tolist() == [0, TRUNCATED]
  assert [q.divisors for q in queries] == [(3, 2, 10), (3, 1)]
  assert all(q.compared for q in queries)
  contexts = {requests[0].context for requests in queries[0].choices}
  assert len(contexts) == 1
  sizes = {
    len(request.context) + len(request.continuation)
    for (request,) in queries[1].choices
  }
  assert sizes == {15}
  task = choice.Task('cats', 14, 'acc_bytes')
  assert choice.encode(task, items, family, bare)[0][1].divisors == (3, 2)
  assert choice.encode(choice.Task('cats', 14), items, family, bare)[0][
    1
  ].divisors == (1, 1)
  task = choice.Task('cats', 14, 'acc_tokens')
  query = choice.encode(task, items, family, bare)[0][0]
  tokens = tuple(len(request.continuation) for (request,) in query.choices)
  assert query.divisors == tokens and tokens[0] < tokens[2]


def test_perplexity_of_items(bare, family):
  text = 'a cat that is on the mat is singing'
  items = [
    Item('alone', '', 0, (text,)),
    Item('behind', 'there is ', 0, (text,)),
    Item('far behind', 'on and ' * 9, 0, ('on and',)),
  ]
  task = perplexity.Task('cats', 14, 'word')
  queries, flags = perplexity.encode(task, items, family, bare)
  assert flags.tolist() == [0, 0, TRUNCATED]
  assert [q.divisors for q in queries] == [(9.0,), (9.0,), (2.0,)]
  coder = continuations.coder(bare)
  tokens = continuations.encode(coder, [text])[0]
  for query, prefix in zip(queries[:2], (1, 2), strict=True):
    predicted = [t for w in query.choices[0] for t in w.continuation]
    assert tuple(predicted[prefix - 1 :]) == tokens
  nats = [-30.0, -28.0, -10.0]
  found = perplexity.corpus(queries, items, nats)
  count = sum(len(w.continuation) for q in queries for w in q.choices[0])
  assert found['token_perplexity'] == pytest.approx(math.exp(68 / count))
  assert found['word_perplexity'] == pytest.approx(math.exp(68 / 20))
  assert found['byte_perplexity'] == pytest.approx(math.exp(68 / 76))
  assert found['bits_per_byte'] == pytest.approx(68 / 76 / math.log(2))


@pytest.mark.parametrize('context', [1, 5, 9])
@pytest.mark.parametrize('count', [1, 5, 6, 23])
def test_windows_predict_each_token_once(context, count):
  whole = Request(tuple(range(context)), tuple(range(100, 100 + count)))
  windows = perplexity.rolling(whole, 5)
  predicted = [token for w in windows for token in w.continuation]
  assert predicted == list(whole.continuation)
  text = whole.context + whole.continuation
  for window in windows:
    inputs = (window.context + window.continuation)[:-1]
    assert 1 <= len(inputs) <= 5
    end = text.index(window.continuation[-1])
    assert text[end - len(inputs) : end] == inputs
  if len(windows) > 1:
    last = windows[-1]
    assert len(last.context) + len(last.continuation) == 6


def test_tasks_and_items_that_make_no_sense_are_refused(bare, family):
  with pytest.raises(ValueError, match="unknown metric 'acc_nrm'"):
    choice.Task('cats', 14, 'acc_nrm')
  with pytest.raises(ValueError, match="unknown unit 'letter'"):
    perplexity.Task('cats', 14, 'letter')
  task = choice.Task('cats', 14)
  with pytest.raises(ValueError, match='1 choices and the label 0'):
    choice.encode(task, [Item('x', 'on', 0, (' yes',))], family, bare)
  with pytest.raises(ValueError, match='2 choices and the label 2'):
    choice.encode(task, [Item('x', 'on', 2, (' a', ' b'))], family, bare)
  with pytest.raises(ValueError, match='2 choices; expected one'):
    perplexity.encode(
      perplexity.Task('cats', 14),
      [Item('x', 'on', 0, (' a', ' b'))],
      family,
      bare,
    )
  with pytest.raises(ValueError, match='max_tokens=65; the model takes 64'):
    choice.encode(choice.Task('cats', 65), [], family, bare)
