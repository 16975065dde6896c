"""Generation: parity with torch, invariances, draws, likelihoods, grades."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from automerge_jax.models import base, registry
from automerge_jax.tasks import decoding, generation, stops
from automerge_jax.tasks.generation import Encoded, Task
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED, UNPARSED
from tests import tiny_decoder

DATA = pathlib.Path(__file__).parent / 'testdata'
NEW = 10
ENDS = (3, 7, 20, 31)


@pytest.fixture(scope='module')
def golden():
  found = {}
  for name in ('llama_tiny', 'text_models', 'generation'):
    with np.load(DATA / f'{name}.npz') as file:
      found |= dict(file)
  return found


@pytest.fixture(scope='module')
def model():
  family, params = tiny_decoder.model()
  return family, jax.tree.map(jnp.asarray, params)


def _stops(size, ends):
  """What ends a text of a model without a tokenizer."""
  table = np.zeros((size + 1, 2), np.int16)
  table[:, 1] = 1
  table[list(ends)] = 1
  return stops.Stops(tuple(ends), (), table)


def _encoded(prompts, built, answers=None, seeds=None):
  return [
    Encoded(
      source=(),
      prompt=tuple(prompt),
      answer=tuple(answers[i]) if answers else (5,),
      seed=seeds[i] if seeds else i,
      stops=built,
      tokenizer=None,
    )
    for i, prompt in enumerate(prompts)
  ]


def _run(family, params, encoded, new=NEW, temperature=0.0, **options):
  """Tokens and likelihoods in the items' order, and steps."""
  count = len(encoded)
  task = Task('t', 64, new, temperature=temperature)
  options = {'widths': 1} | options  # each width takes a second to compile
  queue = generation.queue(task, encoded, np.arange(count), count, **options)
  made = jax.jit(lambda p, q: decoding.generate(family, p, q))(params, queue)
  tokens = np.full((count + 1, new), -2)
  nats = np.zeros(count + 1)
  tokens[queue.slot], nats[queue.slot] = made.tokens, made.log_likelihood
  return tokens[:count], nats[:count], int(made.steps)


def _logits(family, params):
  """Logits [V] behind a text, by the ordinary forward pass."""

  @jax.jit
  def forward(params, ids, mask):
    hidden = base.forward(family, params, {'ids': ids, 'mask': mask})
    return family.logits(params, hidden)[0]

  def of(tokens):
    ids = np.zeros((1, 40), np.int32)
    ids[0, : len(tokens)] = tokens
    mask = (np.arange(40) < len(tokens))[None].astype(np.int32)
    return np.asarray(forward(params, ids, mask))[: len(tokens)]

  return of


def _questions(count=11, seed=0):
  draw = np.random.default_rng(seed)

  def some(low, high):
    return draw.integers(
      3, tiny_decoder.VOCAB, draw.integers(low, high)
    ).tolist()

  return [some(1, 14) for _ in range(count)], [some(1, 5) for _ in range(count)]


def test_equal_to_generating_without_memory(model):
  family, params = model
  prompts, answers = _questions()
  built = _stops(tiny_decoder.VOCAB, ENDS)
  logits = _logits(family, params)
  tokens, nats, _ = _run(
    family, params, _encoded(prompts, built, answers), batch=4
  )
  lengths = set()
  for prompt, answer, made, nat in zip(
    prompts, answers, tokens, nats, strict=True
  ):
    text = list(prompt)
    while text[-1] not in ENDS or len(text) == len(prompt):
      if len(text) == len(prompt) + NEW:
        break
      text.append(int(logits(text)[-1].argmax()))
    own = text[len(prompt) :]
    lengths.add(len(own))
    np.testing.assert_array_equal(made, own + [-1] * (NEW - len(own)))
    behind = logits([*prompt, *answer])[len(prompt) - 1 : -1]
    chosen = jax.nn.log_softmax(behind)[np.arange(len(answer)), answer]
    np.testing.assert_allclose(nat, chosen.sum(), atol=1e-4)
  assert len(lengths) > 3 and NEW in lengths


def test_batch_order_and_chunks_do_not_matter(model):
  family, params = model
  prompts, answers = _questions(13, 1)
  built = _stops(tiny_decoder.VOCAB, ENDS)
  encoded = _encoded(prompts, built, answers)
  for temperature in (0.0, 0.8):
    options = {'temperature': temperature}
    tokens, nats, steps = _run(family, params, encoded, batch=13, **options)
    assert steps == (tokens >= 0).sum(1).max() - 1
    order = np.random.default_rng(2).permutation(13)
    shuffled = [encoded[i] for i in order]
    for other in (
      {'batch': 1},
      {'batch': 5, 'tokens_per_chunk': 36, 'widths': 3},
    ):
      again, same, _ = _run(family, params, shuffled, **options, **other)
      np.testing.assert_array_equal(again, tokens[order])
      np.testing.assert_allclose(same, nats[order], atol=1e-4)


def test_rows_are_refilled_and_do_not_wait(model):
  family, params = model
  prompts, _ = _questions(24, 3)
  encoded = _encoded(prompts, _stops(tiny_decoder.VOCAB, ENDS))
  tokens, _, steps = _run(family, params, encoded, batch=4)
  lengths = (tokens >= 0).sum(1)
  assert lengths.min() < NEW // 2
  waiting = sum(
    max(
      lengths[np.argsort([len(p) for p in prompts], kind='stable')][b : b + 4]
    )
    - 1
    for b in range(0, 24, 4)
  )
  least = (lengths - 1).sum() / 4
  assert least <= steps < waiting
  assert steps <= least + NEW


def test_one_token_and_no_more(model):
  family, params = model
  prompts, _ = _questions(5, 4)
  built = _stops(tiny_decoder.VOCAB, ())
  one, _, steps = _run(family, params, _encoded(prompts, built), 1, batch=2)
  many, _, _ = _run(family, params, _encoded(prompts, built), 4, batch=2)
  np.testing.assert_array_equal(one, many[:, :1])
  assert steps <= 2


@pytest.mark.parametrize(
  'case',
  [
    'llama2',
    'llama3',
    'mistral',
    'qwen2',
    'gemma2',
    'gemma3',
    'gpt2_tied',
    't5_tied',
    't5_gated',
  ],
)
def test_greedy_tokens_equal_torch(golden, case):
  prefix = f'{case}/weights/'
  stored = {k.removeprefix(prefix): v for k, v in golden.items() if prefix in k}
  config = json.loads(str(golden[f'{case}/config']))
  family = registry.from_config(config, list(stored))
  params = base.pack(family.keys, stored)
  built = _stops(config['vocab_size'], golden[f'{case}/ends'])
  prompts = [row[row >= 0].tolist() for row in golden[f'{case}/prompts']]
  encoded = _encoded(prompts, built)
  if family.encoder is not None:
    encoded = [e._replace(source=e.prompt, prompt=(0,)) for e in encoded]
  wanted = golden[f'{case}/tokens']
  assert (wanted < 0).any()
  tokens, _, _ = _run(family, params, encoded, wanted.shape[1], batch=4)
  np.testing.assert_array_equal(tokens, wanted)


def test_draws_follow_the_softmax(model):
  family, params = model
  prompt, n = [9, 4, 33], 3000
  built = _stops(tiny_decoder.VOCAB, ())
  encoded = _encoded([prompt] * n, built)
  options = {
    'new': 1,
    'temperature': 1.7,
    'batch': n,
    'tokens_per_chunk': 4 * n,
  }
  tokens, _, _ = _run(family, params, encoded, **options)
  logits = _logits(family, params)(prompt)[-1]
  share = np.asarray(jax.nn.softmax(logits / 1.7), float)
  expected = n * share / share.sum()
  counts = np.bincount(tokens[:, 0], minlength=len(share)).astype(float)
  rare = expected < 5
  both = [np.append(x[~rare], x[rare].sum()) for x in (counts, expected)]
  assert (~rare).sum() > 5
  assert scipy.stats.chisquare(*both).pvalue > 1e-3


def test_a_seed_is_a_text(model):
  family, params = model
  built = _stops(tiny_decoder.VOCAB, ())
  encoded = _encoded([[9, 4]] * 6, built, seeds=[1, 2, 3, 1, 2, 3])
  tokens, _, _ = _run(family, params, encoded, temperature=2.0, batch=4)
  np.testing.assert_array_equal(tokens[:3], tokens[3:])
  assert len(np.unique(tokens, axis=0)) == 3
  # Each token has a draw of its own.
  assert all(len(set(row)) > 2 for row in tokens.tolist())


def test_candidates_in_a_map(model):
  family, params = model
  prompts, _ = _questions(6, 5)
  encoded = _encoded(prompts, _stops(tiny_decoder.VOCAB, ENDS))
  task = Task('t', 64, NEW)
  queue = generation.queue(task, encoded, np.arange(6), 6, batch=4, widths=1)

  def one(scale):
    merged = jax.tree.map(lambda leaf: leaf * scale, params)
    return generation.scores(family, merged, {}, queue)[0]

  scales = jnp.asarray([1.0, 0.7])
  found = jax.jit(lambda s: jax.lax.map(one, s))(scales)
  together = jax.jit(lambda s: jax.lax.map(one, s, batch_size=2))(scales)
  one = jax.jit(one)
  assert found.answer.shape == (2, len(queue.slot), NEW)
  assert np.isnan(found.score).all()
  for at in range(2):
    alone = one(scales[at])
    np.testing.assert_array_equal(found.answer[at], alone.answer)
    np.testing.assert_array_equal(together.answer[at], alone.answer)
    np.testing.assert_allclose(
      found.log_likelihood[at], alone.log_likelihood, atol=1e-5
    )
  assert (found.answer[0] != found.answer[1]).any()


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float16])
def test_half_precision(model, dtype):
  family, params = model
  prompts, answers = _questions(5, 6)
  encoded = _encoded(prompts, _stops(tiny_decoder.VOCAB, ENDS), answers)
  _, nats, _ = _run(family, params, encoded, batch=3)
  half = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
  tokens, close, _ = _run(family, half, encoded, batch=3)
  np.testing.assert_allclose(close, nats, rtol=0.1)
  assert (tokens[:, 0] >= 0).all()


def test_groups_of_chunks_have_the_least_padding():
  widths = np.array([3, 3, 4, 9, 10, 30])
  assert generation._groups(widths, 3) == [(0, 3), (3, 5), (5, 6)]
  assert generation._groups(widths, 1) == [(0, 6)]
  assert generation._groups(widths[:1], 4) == [(0, 1)]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Of the tiny model, with a tokenizer of letters and one special token."""
  path = tmp_path_factory.mktemp('letters')
  letters = list('abcdefghijklmnopqrstuvwxyz0123456789 .:,-?=#\n+QA')
  special = ['<end>', '<turn>']
  vocab = {t: i for i, t in enumerate([*special, '<unk>', *letters])}
  tokenizer = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token='<unk>'))
  tokenizer.pre_tokenizer = pre_tokenizers.Split('', 'isolated')
  tokenizer.decoder = decoders.Fuse()
  tokenizer.add_special_tokens(special)
  tokenizer.save(str(path / 'tokenizer.json'))
  (path / 'config.json').write_text(
    json.dumps(tiny_decoder.CONFIG | {'eos_token_id': 0})
  )
  return path


def _items(*texts, answers=('7',)):
  return [
    Item(f'{i:016x}', text, 0, answers=answers) for i, text in enumerate(texts)
  ]


def test_encoding(model, folder):
  task = Task('sum', 8, 2, stop=('\n', '<turn>'))
  items = _items('Q: 3+4=', 'Q: 12+34=', answers=('7 apples', 'b'))
  encoded, flags = generation.encode(task, items, model[0], folder)
  np.testing.assert_array_equal(flags, [0, TRUNCATED])
  read = encoded[0].tokenizer.decode
  assert read(encoded[0].prompt) == 'Q: 3+4='
  assert read(encoded[1].prompt) == ': 12+34='  # its end
  assert read(encoded[0].answer) == ' 7'  # as much as can be generated
  assert encoded[0].stops is encoded[1].stops
  assert encoded[0].stops.ends == (0, 1)
  assert encoded[0].seed != encoded[1].seed
  other, _ = generation.encode(
    Task('sum', 8, 2, seed=1), items, model[0], folder
  )
  assert other[0].seed != encoded[0].seed


def test_grades(model, folder):
  task = Task('sum', 20, 12, stop=('\nQ',), pattern=r'(\d+)', numeric=True)
  items = _items(*['Q: 3+4='] * 5)
  encoded, _ = generation.encode(task, items, model[0], folder)
  spell = encoded[0].tokenizer.encode
  written = ['7\nQ 8', 'is 8<end>', 'is 7, or so!', 'none<end>', '<end>7']
  tokens = np.full((5, 12), -1)
  for row, text in zip(tokens, written, strict=True):
    row[: len(spell(text).ids)] = spell(text).ids
  graded = generation.grade(task, items, encoded, tokens)
  assert graded.texts[0] == '7'
  assert graded.texts[1] == 'is 8'
  assert graded.answers == ('7', '8', '7', None, None)
  np.testing.assert_array_equal(graded.score, [1, 0, 1, 0, 0])
  np.testing.assert_array_equal(
    graded.flags, [0, 0, TRUNCATED, UNPARSED, UNPARSED]
  )


def test_device_stops_are_the_ends_that_the_host_finds(model, folder):
  family, params = model
  task = Task('t', 20, 24, stop=('a', 'k', '0', 'z'), temperature=2.0)
  items = _items(*(f'Q: {i}+4=' for i in range(12)))
  encoded, _ = generation.encode(task, items, family, folder)
  queue = generation.queue(task, encoded, np.arange(12), 12, batch=5, widths=1)
  made, slot = jax.jit(lambda p, q: generation.scores(family, p, {}, q))(
    params, queue
  )
  tokens = np.zeros((13, 24), int)
  tokens[slot] = made.answer
  graded = generation.grade(task, items, encoded, tokens[:12])
  lengths = (tokens[:12] >= 0).sum(1)
  assert (lengths < 24).sum() > 5
  np.testing.assert_array_equal(
    (graded.flags & TRUNCATED) == 0,
    [t[lengths[i] - 1] in _ended(encoded) for i, t in enumerate(tokens[:12])],
  )


def _ended(encoded):
  table = encoded[0].stops.table
  return set(np.flatnonzero(table[:, 0] == table.shape[1] - 1))


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'max_new_tokens': 0}, 'max_new_tokens=0'),
    ({'temperature': -1.0}, 'temperature=-1.0'),
    ({'stop': ('',)}, 'empty stop'),
    ({'metric': 'acc'}, "'acc'"),
    ({'pattern': '('}, 'no regular expression'),
  ],
)
def test_refused_tasks(fields, message):
  with pytest.raises(ValueError, match=message):
    Task(**({'name': 'sum', 'max_tokens': 8, 'max_new_tokens': 8} | fields))


def test_refused_items_and_models(model, folder):
  family, _ = model
  task = Task('sum', 20, 12)
  for answers in ((), ('7', ' ')):
    with pytest.raises(ValueError, match='accepted answers'):
      generation.encode(task, _items('Q', answers=answers), family, folder)
  with pytest.raises(ValueError, match='takes 64 tokens'):
    generation.encode(Task('sum', 60, 12), _items('Q'), family, folder)
  with pytest.raises(ValueError, match='no prompt'):
    generation.encode(task, _items(''), family, folder)
