"""Labelled examples by task: those of the encoder suite, and where more are."""

import csv
import functools
import hashlib
import importlib
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from automerge_jax import trees
from automerge_jax.io import assets


class Example(NamedTuple):
  """What a task asks, and the right answer.

  Attributes:
    text: the text to classify, or the whole prompt as a model sees it.
    label: index of the class, or of the right choice.
    choices: continuations of the prompt, as they are appended to it.
    answers: accepted answers, where the model writes its own.
    pixels: an image instead of a text, uint8 [C, H, W].
  """

  text: str
  label: int
  choices: tuple[str, ...] = ()
  answers: tuple[str, ...] = ()
  pixels: np.ndarray | None = None


def content(example: Example) -> str:
  """What makes an example the one it is, as text."""
  if example.pixels is not None:
    shape = str(example.pixels.shape).encode()
    return hashlib.sha256(shape + example.pixels.tobytes()).hexdigest()
  return '\n'.join((example.text, *example.choices))


class Source(NamedTuple):
  """All labelled texts of one task.

  Attributes:
    classes: class names, in label order.
    train: examples that may be trained, searched and selected on.
    test: examples of the publisher's own test file, or empty.
    stated: examples that are stated to be for `search` or `select`, or for
      `validation`, from which the splits are cut that nothing is stated of.
  """

  classes: tuple[str, ...]
  train: tuple[Example, ...]
  test: tuple[Example, ...] = ()
  stated: Mapping[str, tuple[Example, ...]] = {}


def sentiment(domain: str) -> Source:
  """Sentiment of texts of one domain, without the undecided ones.

  Hutto & Gilbert (ICWSM 2014); mean human score in [-4, 4], kept where it is
  beyond 0.5 either way.

  Args:
    domain: `movie` review snippets, `tweets`, `amazon` review snippets or
      `nyt` editorial snippets.
  """
  rows = _lines(assets.fetch('vader') / f'{domain}.txt')
  scored = [(float(score), text) for _, score, text in map(_split3, rows)]
  return Source(
    ('negative', 'positive'),
    tuple(
      Example(text.strip(), int(score > 0))
      for score, text in scored
      if abs(score) > 0.5
    ),
  )


def sarcasm() -> Source:
  """Whether a news headline is sarcastic."""
  rows = _lines(assets.fetch('sarcasm') / 'samples.jsonl')
  samples = [json.loads(row) for row in rows]
  return Source(
    ('plain', 'sarcastic'),
    tuple(
      Example(sample['input'][1]['content'].strip(), int(sample['ideal']))
      for sample in samples
    ),
  )


def election() -> Source:
  """Author of a tweet of the 2016 campaign.

  Retweets are dropped, marked ones and those that start with RT: they are
  somebody else's words.
  """
  rows = _table(assets.fetch('texts') / 'election-tweets-2016.tab')
  classes = ('HillaryClinton', 'realDonaldTrump')
  return Source(
    classes,
    tuple(
      Example(row[9].strip(), classes.index(row[7]))
      for row in rows
      if row[0] == 'False' and not row[9].startswith('RT')
    ),
  )


def reuters() -> Source:
  """Topic of a Reuters newswire story, the eight classes of R8."""
  folder = assets.fetch('texts')
  train, test = (
    [(row[0], row[1]) for row in _table(folder / f'reuters-r8-{part}.tab')]
    for part in ('train', 'test')
  )
  classes = tuple(sorted({label for label, _ in train}))
  return Source(
    classes,
    tuple(Example(text, classes.index(label)) for label, text in train),
    tuple(Example(text, classes.index(label)) for label, text in test),
  )


SOURCES: dict[str, Callable[[], Source]] = {
  **{
    domain: functools.partial(sentiment, domain)
    for domain in ('movie', 'tweets', 'amazon', 'nyt')
  },
  'sarcasm': sarcasm,
  'election': election,
  'reuters': reuters,
}
# Modules beside this one that have SOURCES of their own, made of these.
MORE = ('language_sources', 'vision_sources')


def known() -> dict[str, Callable[[], Source]]:
  """All sources by the names of their tasks."""
  found = dict(SOURCES)
  for name in MORE:
    module = importlib.import_module(f'automerge_jax.tasks.{name}')
    found |= module.SOURCES
  return found


@functools.cache
def read(name: str) -> Source:
  """The source of a task by name.

  Raises:
    KeyError: for an unknown name.
  """
  found = known()
  if name not in found:
    raise KeyError(f'unknown task {name!r}{trees.nearest(name, found)}')
  return found[name]()


def _lines(path: pathlib.Path) -> list[str]:
  # Not splitlines(): texts may hold other line separators, such as U+2028.
  rows = path.read_text(encoding='utf-8').split('\n')
  return [row for row in rows if row.strip()]


def _split3(row: str) -> list[str]:
  return row.split('\t', 2)


def _table(path: pathlib.Path) -> list[list[str]]:
  """Rows of an Orange table, behind its three header lines."""
  with open(path, encoding='utf-8', newline='') as handle:
    return [row for row in csv.reader(handle, delimiter='\t') if row][3:]
