"""Splits: disjoint, stratified, nested, content-addressed, and sealed."""

import ast
import collections
import pathlib
import random

import numpy as np
import pytest

import automerge_jax
from automerge_jax.tasks import partition, sealed, sources, splits
from automerge_jax.tasks.sources import Example, Source

TASKS = ('movie', 'sarcasm', 'election', 'reuters')
PACKAGE = pathlib.Path(automerge_jax.__file__).parent


def _source(n=400, test=0):
  examples = [Example(f'text number {i}', int(i % 4 == 0)) for i in range(n)]
  return Source(
    ('a', 'b'),
    tuple(examples),
    tuple(Example(f'test number {i}', i % 2) for i in range(test)),
  )


def test_partition_is_exact_disjoint_and_stratified():
  parts = partition.partition('tiny', _source())
  assert {k: len(v) for k, v in parts.items()} == {
    'train': 216,
    'search': 64,
    'select': 48,
    'heldout': 72,
  }
  ids = [item.id for items in parts.values() for item in items]
  assert len(set(ids)) == 400
  for items in parts.values():
    for n in (20, 40, len(items)):
      share = np.mean([item.label for item in items[:n]])
      assert abs(share - 0.25) <= 1 / n


def test_partition_ignores_the_order_of_the_file():
  source = _source()
  shuffled = list(source.train)
  random.Random(0).shuffle(shuffled)
  assert partition.partition('tiny', source) == partition.partition(
    'tiny', source._replace(train=tuple(shuffled))
  )


def test_seed_and_task_matter():
  one = partition.partition('tiny', _source(), seed=0)
  two = partition.partition('tiny', _source(), seed=1)
  other = partition.partition('other', _source(), seed=0)
  assert one['train'] != two['train']
  assert not {i.id for i in one['train']} & {i.id for i in other['train']}


def test_own_test_file_is_the_heldout_split():
  parts = partition.partition('tiny', _source(test=30))
  assert {item.text for item in parts['heldout']} == {
    f'test number {i}' for i in range(30)
  }
  assert sum(len(items) for items in parts.values()) == 430


def test_what_is_stated_holds_and_the_rest_is_cut():
  source = _source(100)
  train, more = source.train[:60], source.train[60:]
  stated = {'validation': more[:30], 'select': more[30:]}
  parts = partition.partition(
    'tiny',
    Source(('a', 'b'), train, stated=stated),
    shares={'train': 1.0, 'search': 2.0, 'select': 5.0, 'heldout': 1.0},
  )
  sizes = {split: len(items) for split, items in parts.items()}
  assert sizes == {'train': 60, 'search': 20, 'select': 10, 'heldout': 10}
  assert {i.text for i in parts['train']} == {e.text for e in train}
  assert {i.text for i in parts['select']} == {e.text for e in more[30:]}
  # A double counts for the more secret split.
  doubled = Source(('a', 'b'), train + more[30:], stated=stated)
  parts = partition.partition('tiny', doubled)
  assert len(parts['train']) == 60 and len(parts['select']) == 10


def test_duplicates_and_conflicts():
  source = Source(
    ('a', 'b'),
    train=(
      Example('Same  words!', 0),
      Example('same words https://t.co/xyz', 0),
      Example('torn', 0),
      Example('TORN.', 1),
      Example('https://t.co/only', 0),
      Example('In both', 1),
      Example('lies', 0),
    ),
    test=(Example('in both', 1), Example('lies', 1)),
  )
  parts = partition.partition('tiny', source)
  assert [item.text for item in parts['heldout']] == ['in both']
  rest = [i.text for s in ('train', 'search', 'select') for i in parts[s]]
  assert rest == ['Same  words!']


def test_item_id_is_pinned():
  assert partition.item_id('movie', 'a fine film') == '3fdc01f65ee3614b'


@pytest.mark.parametrize('task', TASKS)
def test_real_splits(task):
  sizes = {'train': 3000, 'search': 500, 'select': 500, 'heldout': 1000}
  load = {
    'train': splits.train_items,
    'search': splits.search_items,
    'select': sealed.select_items,
    'heldout': sealed.heldout_items,
  }
  full = {split: load[split](task, n) for split, n in sizes.items()}
  words = [partition.normalise(i.text) for v in full.values() for i in v]
  assert len(set(words)) == 5000
  assert len({i.id for v in full.values() for i in v}) == 5000
  shares = [
    collections.Counter(item.label for item in full[split])[0] / sizes[split]
    for split in ('train', 'search', 'select')
  ]
  assert max(shares) - min(shares) < 0.01
  for split in sizes:  # a smaller share is a prefix of the same split
    assert load[split](task, 150) == full[split][:150]
  source = sources.read(task)
  assert {i.label for i in full['train']} == set(range(len(source.classes)))


def test_reuters_heldout_is_from_its_test_file():
  test = {example.text for example in sources.read('reuters').test}
  assert {i.text for i in sealed.heldout_items('reuters', 1000)} <= test
  assert not {i.text for i in splits.train_items('reuters', 3000)} & test


def test_election_has_no_retweets():
  items = splits.train_items('election', 3000)
  assert not [item for item in items if item.text.startswith('RT')]


def test_searches_of_other_seeds_have_other_items():
  drawn = [splits.search_items('movie', 200, seed=seed) for seed in range(3)]
  assert drawn[0] == splits.search_items('movie', 200)
  assert len({item.id for items in drawn for item in items}) == 600
  positive = [np.mean([item.label for item in items]) for items in drawn]
  assert np.ptp(positive) < 0.02
  total = len(partition.partition('movie', sources.read('movie'))['search'])
  most = splits.search_items('movie', total - 1, seed=1)  # goes round
  assert len({item.id for item in most}) == total - 1


def test_too_many_items_is_an_error():
  with pytest.raises(ValueError, match='election/search'):
    splits.search_items('election', 10**6)


def test_unknown_task_names_the_nearest():
  with pytest.raises(KeyError, match='did you mean'):
    splits.train_items('movies', 10)


def _imports(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
      yield from (f'{node.module}.{alias.name}' for alias in node.names)


def test_search_code_cannot_reach_sealed_items():
  assert not set(vars(splits)) & {'sealed', 'select_items', 'heldout_items'}
  assert set(splits._open('movie')) == {'train', 'search'}
  for folder in ('search', 'spaces', 'merging', 'models'):
    for path in (PACKAGE / folder).rglob('*.py'):
      assert not [
        name
        for name in _imports(path)
        if name.startswith('automerge_jax.tasks.')
        and name != 'automerge_jax.tasks.partition.Item'  # a type
        and name.split('.')[2] in ('sealed', 'partition', 'sources', 'division')
      ], path
