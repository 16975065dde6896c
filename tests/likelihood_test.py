"""Packed likelihoods against one plain forward pass a request."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.models import base, registry
from automerge_jax.tasks import likelihood, packing
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.tasks.likelihood import Query
from tests import text_models, tiny_decoder

FAMILY, PARAMS = tiny_decoder.model()
QUESTIONS = tiny_decoder.questions()
REQUESTS = list(itertools.chain(*QUESTIONS))
WIDTH = max(len(r.context) + len(r.continuation) for r in REQUESTS)


@jax.jit
def _log_softmax(params, ids, mask):
  hidden = base.forward(FAMILY, params, {'ids': ids, 'mask': mask})
  return jax.nn.log_softmax(FAMILY.logits(params, hidden))


def _table(text):
  """Log-probabilities of what follows each token of one text, [T, V]."""
  ids = np.zeros((1, WIDTH), np.int32)
  ids[0, : len(text)] = text
  mask = (np.arange(WIDTH) < len(text)).astype(np.int32)[None]
  return np.asarray(_log_softmax(PARAMS, ids, mask))[0]


@pytest.fixture(scope='module')
def plain():
  """Each request alone in its row, the vocabulary head at every token."""
  sums = []
  for context, continuation in REQUESTS:
    text = np.array([*context, *continuation])
    places = np.arange(len(context) - 1, len(text) - 1)
    scored = _table(text)[places, text[places + 1]]
    sums.append(scored.sum(dtype=np.float64))
  return np.array(sums)


@pytest.fixture(scope='module')
def items():
  """The questions as items: every third one's first choice as perplexity."""
  queries = []
  for index, requests in enumerate(QUESTIONS):
    if index % 3 == 0:
      query = Query(((*requests[:1], *requests[:1]),), (4.0,), False)
    else:
      lengths = tuple(float(1 + i % 5) for i in range(len(requests)))
      query = Query(tuple((r,) for r in requests), lengths, True)
    queries.append(query)
  n = len(queries)
  return ItemSet(
    tasks=('questions',),
    ids=tuple(map(str, range(n))),
    encoded=tuple(queries),
    task=np.zeros(n, np.int32),
    label=np.array(
      [i % len(q.choices) for i, q in enumerate(queries)], np.int32
    ),
    flags=np.zeros(n, np.uint8),
    definitions=(),
    items=(),
  )


def _scores(params, data):
  return jax.jit(lambda p, x: likelihood.score(FAMILY, p, x))(params, data)


@pytest.mark.parametrize('tokens_per_chunk', [128, 100_000])
def test_packed_sums_are_those_of_plain_forwards(plain, tokens_per_chunk):
  sums, _ = likelihood.log_likelihoods(
    FAMILY, PARAMS, REQUESTS, tokens_per_chunk=tokens_per_chunk
  )
  np.testing.assert_allclose(sums, plain, atol=1e-4)


def test_the_head_in_blocks_says_the_same(plain, monkeypatch):
  monkeypatch.setattr(likelihood, 'LOGITS', 7 * tiny_decoder.VOCAB)
  sums, _ = likelihood.log_likelihoods(FAMILY, PARAMS, REQUESTS)
  np.testing.assert_allclose(sums, plain, atol=1e-4)


def test_greedy_is_what_the_model_itself_would_say():
  requests, wanted = [], []
  for context in ((1, 2, 3), (7, 5), (9, 9, 4, 30)):
    text = context
    for _ in range(3):
      text = (*text, int(_table(text)[len(text) - 1].argmax()))
    said = text[len(context) :]
    other = ((said[1] + 1) % tiny_decoder.VOCAB,)
    for choice in (said, said[:1], said[:1] + other, other + said[1:]):
      requests.append(packing.Request(context, choice))
      wanted.append(choice == said[: len(choice)])
  _, greedy = likelihood.log_likelihoods(FAMILY, PARAMS, requests)
  assert set(wanted) == {True, False}
  assert greedy.tolist() == wanted


def test_no_order_of_requests_matters(plain):
  order = np.random.default_rng(0).permutation(len(REQUESTS))
  sums, _ = likelihood.log_likelihoods(
    FAMILY, PARAMS, [REQUESTS[i] for i in order]
  )
  np.testing.assert_allclose(sums, plain[order], atol=1e-4)


def test_padding_is_not_seen():
  packed = packing.pack(REQUESTS, range(len(REQUESTS)), tokens_per_chunk=256)
  run = jax.jit(lambda p, x: likelihood.read_out(FAMILY, p, x, len(REQUESTS)))
  padding = packed.inputs['mask'] == 0
  assert padding.any()
  other = np.where(padding, 17, packed.inputs['ids'])
  assert (other != packed.inputs['ids']).any()
  changed = dataclasses.replace(packed, inputs=packed.inputs | {'ids': other})
  for ours, theirs in zip(
    run(PARAMS, packed), run(PARAMS, changed), strict=True
  ):
    np.testing.assert_array_equal(ours, theirs)


def test_item_scores_follow_their_definition(plain, items):
  (data,) = likelihood.arrays(items, np.arange(len(items))[::-1])
  scores, slots = _scores(PARAMS, data)
  np.testing.assert_array_equal(slots, np.arange(len(items))[::-1])
  sums = iter(plain)
  for index, query in enumerate(items.encoded):
    mine = np.array([next(sums) for _ in QUESTIONS[index]])
    if query.compared:
      quotients = mine / query.divisors
      score = float(quotients.argmax() == items.label[index])
      nats = mine[items.label[index]] - np.logaddexp.reduce(mine)
    else:
      nats = 2 * mine[0]
      score = nats / query.divisors[0]
    row = len(items) - 1 - index
    np.testing.assert_allclose(scores.score[row], score, atol=1e-4)
    np.testing.assert_allclose(scores.log_likelihood[row], nats, atol=2e-4)


def test_minibatches_hold_every_item_once(items):
  slots = np.arange(3, len(items))
  (whole,) = likelihood.arrays(items, slots)
  (shares,) = likelihood.minibatches(items, slots, 3)
  wanted, _ = _scores(PARAMS, whole)
  found, where = jax.jit(
    lambda p, x: jax.lax.map(lambda one: likelihood.score(FAMILY, p, one), x)
  )(PARAMS, shares)
  where = np.asarray(where).ravel()
  assert sorted(where[where < len(items)]) == slots.tolist()
  real = where < len(items)
  assert not real.all()
  nats = np.asarray(found.log_likelihood).ravel()
  assert np.isfinite(nats).all()
  np.testing.assert_allclose(
    nats[real], np.asarray(wanted.log_likelihood)[where[real] - 3], atol=1e-4
  )


@pytest.mark.parametrize('n', [18, 3])
def test_shares_in_chunks_hold_every_item_once(items, n):
  """Also where there are fewer items than shares."""
  slots = np.arange(n)
  (whole,) = likelihood.arrays(items, slots)
  (shares,) = likelihood.minibatches(items, slots, 4, 32)
  assert shares.slot.shape[0] == 4
  assert n < 18 or shares.packed.read.shape[1] > 1  # chunks
  wanted, _ = _scores(PARAMS, whole)
  found, where = jax.jit(
    lambda p, x: jax.lax.map(lambda one: likelihood.score(FAMILY, p, one), x)
  )(PARAMS, shares)
  where = np.asarray(where).ravel()
  real = where < len(items)
  assert sorted(where[real]) == slots.tolist()
  for name in ('score', 'log_likelihood'):
    values = np.asarray(getattr(found, name)).ravel()
    assert not np.isnan(values).any()
    np.testing.assert_allclose(
      values[real], np.asarray(getattr(wanted, name))[where[real]], atol=1e-4
    )


def test_gradients_are_finite_differences(items):
  (data,) = likelihood.arrays(items, np.arange(3))

  def objective(params):
    return likelihood.score(FAMILY, params, data)[0].log_likelihood.sum()

  gradient = jax.jit(jax.grad(objective))(PARAMS)
  draw = np.random.default_rng(0)
  direction = jax.tree.map(
    lambda x: draw.normal(size=x.shape).astype(np.float32), PARAMS
  )
  slope = sum(jax.tree.leaves(jax.tree.map(jnp.vdot, gradient, direction)))
  run = jax.jit(objective)
  step = 1e-4
  above, below = (
    run(jax.tree.map(lambda x, d, s=sign: x + s * step * d, PARAMS, direction))
    for sign in (1, -1)
  )
  np.testing.assert_allclose(slope, (above - below) / (2 * step), rtol=1e-2)


@pytest.mark.parametrize('case', ['t5_gated', 't5_tied'])
def test_encoder_decoder_scores_are_those_of_plain_forwards(tmp_path, case):
  family, params = registry.load(text_models.write(tmp_path / case, case))
  vocabulary = text_models.config(case)['vocab_size']
  requests = [
    packing.Request(*(tuple(t % vocabulary for t in part) for part in request))
    for request in REQUESTS[:24]
  ]
  sums, _ = likelihood.log_likelihoods(
    family, params, requests, decoder_start=0, tokens_per_chunk=128
  )

  @jax.jit
  def plain(params, inputs):
    hidden = base.forward(family, params, inputs)
    return jax.nn.log_softmax(family.logits(params, hidden))

  for found, (context, continuation) in zip(sums, requests, strict=True):
    inputs = {}
    for prefix, text in (
      ('', context),
      ('decoder_', (0, *continuation[:-1])),
    ):
      ids = np.zeros((1, WIDTH), np.int32)
      ids[0, : len(text)] = text
      inputs[f'{prefix}ids'] = ids
      inputs[f'{prefix}mask'] = (np.arange(WIDTH) < len(text)).astype(int)[None]
    table = np.asarray(plain(params, inputs))[0]
    scored = table[np.arange(len(continuation)), continuation]
    np.testing.assert_allclose(found, scored.sum(), atol=1e-4)


def test_bfloat16_stays_near(plain):
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), PARAMS)
  sums, _ = likelihood.log_likelihoods(FAMILY, params, REQUESTS)
  assert sums.dtype == np.float32
  counts = np.array([len(r.continuation) for r in REQUESTS])
  assert 0 < np.abs((sums - plain) / counts).max() < 0.2


def test_what_cannot_be_scored_is_refused():
  headless = dataclasses.replace(FAMILY, logits=None)
  with pytest.raises(ValueError, match="'llama' has no vocabulary head"):
    likelihood.log_likelihoods(headless, PARAMS, REQUESTS)
  long = packing.Request(tuple(range(60)), tuple(range(6)))
  with pytest.raises(
    ValueError, match='has 65 input tokens; the model takes 64'
  ):
    likelihood.log_likelihoods(FAMILY, PARAMS, [long])
  sums, greedy = likelihood.log_likelihoods(FAMILY, PARAMS, [])
  assert sums.shape == greedy.shape == (0,)
