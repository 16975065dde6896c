"""How the texts of a task are divided, once: train, search, select, held-out.

Each text's place depends on its content, its label's size and the seed, never
on how many items are asked for: every split is one stratified order, of which
a smaller share is a prefix. Search code imports `splits`, never this module.
"""

import hashlib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np

from automerge_jax.tasks import sources
from automerge_jax.tasks.sources import Example, Source

SEED = 0
SHARES = {'train': 0.54, 'search': 0.16, 'select': 0.12, 'heldout': 0.18}


class Item(NamedTuple):
  """An example with a place in the splits.

  Attributes:
    id: 16 hexadecimal digits of the SHA-256 of (task, content).
    text, label, choices, answers, pixels: as in `sources.Example`.
  """

  id: str
  text: str
  label: int
  choices: tuple[str, ...] = ()
  answers: tuple[str, ...] = ()
  pixels: np.ndarray | None = None


def normalise(text: str) -> str:
  """What makes two texts duplicates: their words, without case and links."""
  text = unicodedata.normalize('NFKC', text).casefold()
  return ' '.join(re.findall(r'\w+', re.sub(r'https?://\S+', ' ', text)))


def item_id(task: str, content: str) -> str:
  """Stable id of an item."""
  return hashlib.sha256(f'{task}\0{content}'.encode()).hexdigest()[:16]


def partition(
  task: str,
  source: Source,
  seed: int = SEED,
  shares: Mapping[str, float] = SHARES,
) -> dict[str, tuple[Item, ...]]:
  """All items of a task by split, each split in stratified order.

  The publisher's own test file, if there is one, is the held-out split, and
  what the source states of search and select items holds. The other splits are
  cut from the validation examples, if there are any, else from the training
  examples. Duplicates are kept once, in the most secret split that they are
  in; texts that occur with different labels, or hold no word, are dropped.

  Args:
    task: its name, part of the item ids.
    source: the labelled texts.
    seed: of the shuffle.
    shares: of the splits that are cut, in proportion.

  Returns:
    `{split: items}` for the four splits.
  """
  groups = {
    'heldout': source.test,
    'select': source.stated.get('select', ()),
    'search': source.stated.get('search', ()),
    'validation': source.stated.get('validation', ()),
    'train': source.train,
  }
  home: dict[str, str] = {}
  for group, examples in groups.items():
    for example in examples:
      home.setdefault(_key(example), group)
  parts: dict[str, list[Item]] = {group: [] for group in groups}
  for words, example in _unique(list(chain(*groups.values()))).items():
    parts[home[words]].append(
      Item(item_id(task, sources.content(example)), *example)
    )
  pool = 'validation' if groups['validation'] else 'train'
  stated = [name for name in SHARES if groups[name] and name != pool]
  cut = {name: shares[name] for name in SHARES if name not in stated}
  if pool == 'validation':
    cut.pop('train', None)
  splits = {name: stratified(parts[name], seed) for name in SHARES}
  return splits | _cut(stratified(parts[pool], seed), cut)


def stratified(items: Iterable[Item], seed: int) -> tuple[Item, ...]:
  """A shuffled order in which every run has the labels in proportion."""
  by_label = defaultdict(list)
  for item in items:
    draw = hashlib.sha256(f'{seed}\0{item.id}'.encode()).digest()
    by_label[item.label].append((draw, item))
  places = []
  for label, drawn in by_label.items():
    drawn.sort()
    places += [
      ((rank + 0.5) / len(drawn), label, item)
      for rank, (_, item) in enumerate(drawn)
    ]
  return tuple(item for _, _, item in sorted(places))


def take(
  items: tuple[Item, ...], n: int, task: str, split: str
) -> tuple[Item, ...]:
  """The first n items; a smaller share is a subset of a larger one.

  Raises:
    ValueError: if the split has fewer.
  """
  if not 0 < n <= len(items):
    raise ValueError(
      f'{n} items of {task}/{split} asked for; it has {len(items)}, '
      f'choose 1 to {len(items)}'
    )
  return items[:n]


def _key(example: Example) -> str:
  """What makes two examples duplicates; empty where there is nothing.

  Signs count where the model writes an answer: 3 + 4 is not 3 - 4.
  """
  content = sources.content(example)
  return content if example.answers else normalise(content)


def _unique(examples: list[Example]) -> dict[str, Example]:
  """First example of each content, unless its labels conflict."""
  labels = defaultdict(set)
  first: dict[str, Example] = {}
  for example in examples:
    words = _key(example)
    labels[words].add((example.label, example.answers))
    first.setdefault(words, example)
  return {
    words: example
    for words, example in first.items()
    if words and len(labels[words]) == 1
  }


def _cut(
  items: tuple[Item, ...], shares: Mapping[str, float]
) -> dict[str, tuple[Item, ...]]:
  total, begin, passed, cut = sum(shares.values()), 0, 0.0, {}
  for split, share in shares.items():
    passed += share
    end = round(len(items) * passed / total)
    cut[split] = items[begin:end]
    begin = end
  return cut
