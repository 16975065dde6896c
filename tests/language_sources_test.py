"""Prompts of the language suite: splits, lengths, one token a choice."""

import hashlib
import re

import numpy as np
import pytest
import tokenizers

from automerge_jax.io import assets, gguf
from automerge_jax.tasks import (
  chain_sum,
  language_sources,
  partition,
  sources,
)

LEAST = {'search': 200, 'select': 200, 'heldout': 350}


@pytest.mark.parametrize('name', language_sources.SOURCES)
def test_splits_are_large_and_apart(name):
  splits = partition.partition(name, sources.read(name))
  for split, least in LEAST.items():
    assert len(splits[split]) >= least
  texts = [item.text for items in splits.values() for item in items]
  assert len(set(texts)) == len(texts)
  for item in splits['heldout']:
    assert bool(item.choices) != bool(item.answers)
    assert len(item.text.split()) <= 40


def test_every_choice_begins_with_a_space_and_is_a_word():
  for name in ('lm_sarcasm', 'lm_movie', 'lm_topic'):
    source = sources.read(name)
    for example in source.train:
      assert len(example.choices) == len(source.classes)
      assert example.text.endswith(':')
      assert all(re.fullmatch(' [a-z]+', c) for c in example.choices)
    labels = np.bincount([example.label for example in source.train])
    assert len(labels) == len(source.classes) and labels.min() > 100


def test_prompt_and_answer_are_the_same_tokens_together_and_apart():
  files = gguf.companions(assets.fetch('smollm2') / 'model.gguf')
  tokenizer = tokenizers.Tokenizer.from_str(files['tokenizer.json'])

  def ids(text):
    return tokenizer.encode(text).ids

  for name in language_sources.SOURCES:
    source = sources.read(name)
    for example in source.train[:30]:
      for answer in example.choices or [f'{example.answers[0]}\n']:
        apart = ids(example.text) + ids(answer)
        assert ids(example.text + answer) == apart
        assert len(apart) <= 72
      assert all(len(ids(choice)) == 1 for choice in example.choices)


def test_labels_follow_the_classification_tasks():
  plain = sources.read('sarcasm').train
  asked = sources.read('lm_sarcasm').train
  assert [e.label for e in plain] == [e.label for e in asked]
  assert asked[0].text == f'Headline: {plain[0].text}\nSarcastic:'


def test_arithmetic_is_right_and_each_expression_once():
  rows = chain_sum.read()
  assert len({expression for expression, _ in rows}) == len(rows) > 8000
  for expression, answer in rows:
    assert re.fullmatch(r'\d{1,2}( [+-] \d{1,2}){1,2}', expression)
    terms = re.findall(r'([+-]?) ?(\d+)', expression)
    assert sum(int(f'{sign}{n}') for sign, n in terms) == int(answer)


def test_sums_that_differ_in_a_sign_are_two_items():
  both = ('4 + 3', '7'), ('4 - 3', '1')
  source = sources.Source(
    (), tuple(sources.Example(x, 0, answers=(y,)) for x, y in both)
  )
  splits = partition.partition('t', source)
  assert sum(map(len, splits.values())) == 2


def test_a_changed_file_of_sums_is_refused(tmp_path):
  path = tmp_path / 'sums.tsv'
  path.write_bytes(chain_sum.PATH.read_bytes() + b'1 + 1\t3\n')
  have = hashlib.sha256(path.read_bytes()).hexdigest()
  with pytest.raises(ValueError, match=have):
    chain_sum.read(path)


@pytest.mark.parametrize(
  'text, want',
  [
    ('a  b\nc', 'a b c'),
    (' '.join('abcdefghij' * 4), ' '.join(('abcdefghij' * 4)[:28])),
    ('x' * 200, 'x' * 200),
    (f'{"x" * 100} {"y" * 100}', 'x' * 100),
  ],
)
def test_cut_ends_at_a_word(text, want):
  assert language_sources.cut(text) == want
