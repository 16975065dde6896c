"""Pretraining of a small encoder, and the suite that starts from one."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from automerge_jax import trees
from automerge_jax.io import assets, safetensors, tokenizers, vocabularies
from automerge_jax.models import base, bert, registry
from automerge_jax.tasks import (
  classification,
  experts,
  pretrain,
  small_base,
  splits,
)
from configs import tiny_suite
from experiments import finetune as entry
from tests import tiny_encoder

CONFIG = bert.config_from_hf(
  tiny_encoder.CONFIG | {'vocab_size': 40, 'max_position_embeddings': 8}, ()
)
OPTIONS = pretrain.Options(steps=60, batch_size=16, learning_rate=1e-2)
SHAPE = small_base.Shape(
  sources=('election', 'nyt'),
  examples=40,
  max_tokens=12,
  vocabulary=250,
  layers=2,
  hidden_size=16,
  heads=2,
  mlp_size=24,
)


@pytest.fixture(scope='module')
def whole():
  folder = assets.fetch('minilm')
  return (folder / tokenizers.TOKENIZER).read_text(encoding='utf-8')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
  return tiny_encoder.write(tmp_path_factory.mktemp('teacher') / 'tiny')


def _start(seed=0):
  words = np.random.default_rng(0).normal(size=(40, 16)).astype(np.float32)
  return pretrain.init(CONFIG, words, jax.random.key(seed))


def _texts():
  """Token ids, and targets that are their counts of eight of the tokens."""
  ids = np.random.default_rng(1).integers(5, 40, (200, 6)).astype(np.int32)
  targets = (ids[:, :, None] == np.arange(10, 18)).sum(1).astype(np.float32)
  return {'ids': ids, 'mask': np.ones_like(ids)}, targets


def _train(options=OPTIONS):
  inputs, targets = _texts()
  return pretrain.train(
    bert.family(CONFIG), _start(), inputs, targets, 4, options
  )


def test_loss_falls_and_is_the_same_again():
  trained, losses = _train()
  again, _ = _train()
  assert len(losses) == 2
  assert losses[1] < 0.75 * losses[0]
  jax.tree.map(np.testing.assert_array_equal, trained, again)
  start = _start()
  for part in ('attention/query/kernel', 'mlp_output/kernel'):
    for moved, first in zip(
      trees.flatten(trained['layers'])[part],
      trees.flatten(start['layers'])[part],
      strict=True,
    ):
      assert abs(moved - first).max() > 1e-3


def test_hidden_tokens_tell_nothing():
  """With all of them hidden, the mean is all that can be told."""
  _, losses = _train(dataclasses.replace(OPTIONS, hidden=1.0))
  assert losses[1] > 0.97


def test_loss_that_is_not_finite_is_named():
  with pytest.raises(FloatingPointError, match='learning rate'):
    _train(dataclasses.replace(OPTIONS, learning_rate=1e38, warmup=0.0))


def test_first_weights_leave_the_embeddings_nearly_alone():
  params = _start()
  family = bert.family(CONFIG)
  inputs, _ = _texts()
  hidden = base.forward(family, params, inputs)
  embedded, _ = family.embed(params, inputs)
  hidden, embedded = np.ravel(hidden), np.ravel(embedded)
  assert np.corrcoef(hidden, embedded)[0, 1] > 0.9
  with pytest.raises(ValueError, match=r'\(40, 16\)'):
    pretrain.init(CONFIG, np.zeros((39, 16), np.float32), jax.random.key(0))


def test_principal_axes_are_those_of_the_variance():
  rng = np.random.default_rng(0)
  table = rng.normal(size=(300, 6)) * [1, 5, 2, 9, 0.1, 1] + 3
  rows = pretrain.principal(table, 2)
  left, size, _ = np.linalg.svd(table - table.mean(0), full_matrices=False)
  want = left[:, :2] * size[:2]
  want /= np.sqrt(np.mean(want**2))
  np.testing.assert_allclose(abs(rows), abs(want), rtol=1e-4, atol=1e-5)
  assert (np.corrcoef(rows.T, table.T)[[0, 1], [5, 3]] > 0.9).all()
  with pytest.raises(ValueError, match='choose 1 to 6'):
    pretrain.principal(table, 7)


def test_cut_vocabulary_names_the_same_tokens(whole, tmp_path):
  texts = [item.text for item in splits.train_items('movie', 200)]
  (tmp_path / 'whole').mkdir()
  (tmp_path / 'whole' / tokenizers.TOKENIZER).write_text(whole)
  before = tokenizers.load(tmp_path / 'whole')
  old = tokenizers.encode(before, texts, 24)
  kept = vocabularies.frequent(whole, old, 1000)
  assert len(kept) == 1000
  (tmp_path / 'cut').mkdir()
  (tmp_path / 'cut' / tokenizers.TOKENIZER).write_text(
    vocabularies.cut(whole, kept)
  )
  after = tokenizers.load(tmp_path / 'cut')
  assert after.get_vocab_size() == 1000
  new = tokenizers.encode(after, texts, 24)
  # Texts of kept tokens alone are encoded to the same tokens as before.
  same = [i for i, ids in enumerate(old) if set(ids) <= set(kept)]
  assert len(same) > 5
  for i in same:
    assert [kept[index] for index in new[i]] == old[i]
  # Of the others, words that were cut are in pieces of their letters.
  unknown = after.token_to_id('[UNK]')
  assert not any(unknown in ids for ids in new)
  assert after.decode(new[0]).split()[0] == before.decode(old[0]).split()[0]


def test_cut_vocabulary_errors(whole):
  with pytest.raises(ValueError, match='always kept'):
    vocabularies.frequent(whole, [[2000, 2001]], 4000)
  with pytest.raises(ValueError, match=r'\[MASK\]'):
    vocabularies.cut(whole, (0, 100, 101, 102, 2000))
  other = json.loads(whole)
  other['model']['type'] = 'BPE'
  with pytest.raises(ValueError, match="'BPE'"):
    vocabularies.cut(json.dumps(other), (0,))


def test_make_writes_a_whole_base_and_is_skipped(teacher, tmp_path):
  folder = tmp_path / 'experts' / experts.BASE
  options = dataclasses.replace(OPTIONS, steps=3)
  report = small_base.make(folder, teacher, SHAPE, options)
  model = registry.load(folder)
  assert model.family.num_layers == 2
  assert model.params['stem']['word']['embedding'].shape == (250, 16)
  assert report['texts'] == 80
  text = 'A new poll is out!'
  task = classification.Task('election', ('a', 'b'), 12)
  ((ids,), _) = classification.encode(
    task, [splits.train_items('election', 1)[0]._replace(text=text)],
    model.family, folder,
  )  # fmt: skip
  assert max(ids) < 250
  before = (folder / safetensors.SINGLE).stat().st_mtime_ns
  assert small_base.make(folder, teacher, SHAPE, options) == report
  assert (folder / safetensors.SINGLE).stat().st_mtime_ns == before
  with pytest.raises(ValueError, match='hidden_size: 16, asked for 8'):
    small_base.make(
      folder, teacher, dataclasses.replace(SHAPE, hidden_size=8), options
    )


def test_entry_point_makes_base_and_experts(teacher, tmp_path):
  config = tiny_suite.get_config('runlocal')
  config.base = str(teacher)
  config.tasks = {'election': {'max_tokens': 12}}
  config.train.update(examples=30, select=10, heldout=10, lengths=(12,))
  shape = vars(SHAPE) | {'examples': 30}
  config.pretrain.shape.update(shape)
  config.pretrain.options.steps = 2
  reports = entry.run(config.lock(), tmp_path)
  assert list(reports) == ['election']
  made = {path.name for path in (tmp_path / 'experts').iterdir()}
  assert made == {'base', 'election'}
  assert reports['election']['settings']['base'] == safetensors.fingerprint(
    tmp_path / 'experts' / 'base'
  )
  assert entry.run(config, tmp_path) == reports


def test_config_argument_is_checked():
  with pytest.raises(ValueError, match='published'):
    tiny_suite.get_config('publishd')
  assert list(tiny_suite.get_config('published').tasks) == [
    'election',
    'movie',
    'sarcasm',
  ]
