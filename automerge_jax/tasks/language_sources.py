"""Prompts and answers of the language-model suite.

Plain texts without a chat template, about 48 tokens at most: long ones are cut
at a word. Answers begin with a space, or behind a line break, so that prompt
and answer are the same tokens whether they are tokenised together or apart.
"""

import zipfile
from collections.abc import Callable
from typing import Any

from automerge_jax.io import assets
from automerge_jax.tasks import chain_sum, choice, generation, sources
from automerge_jax.tasks.sources import Example, Source

MAX_TOKENS = 72  # that no prompt with its answer has

_WORDS, _CHARACTERS = 28, 160  # of a text within a prompt
_QUESTION = 'State the final answer to the following arithmetic problem: '
_TOPICS = {  # folders of the package, and what a model says
  'business': ' business',
  'entertainment': ' entertainment',
  'politics': ' politics',
  'sports': ' sport',
  'tech': ' technology',
}


def sarcasm() -> Source:
  """Whether a news headline is sarcastic: yes or no."""
  return _asked(sources.sarcasm(), 'Headline', 'Sarcastic', (' no', ' yes'))


def movie() -> Source:
  """Sentiment of a movie review: positive or negative.

  Asked so that the untrained model says the same of nearly all: behind
  `Sentiment:` instead, SmolLM2-135M is right in three of four.
  """
  words = (' negative', ' positive')
  return _asked(
    sources.sentiment('movie'), 'Review', 'Positive or negative', words
  )


def topic() -> Source:
  """Section of a BBC article by its headline and first words.

  Greene & Cunningham (ICML 2006).
  """
  classes = tuple(_TOPICS)
  examples = []
  with zipfile.ZipFile(assets.fetch('bbc') / 'articles.zip') as articles:
    for name in articles.namelist():
      # One of the files holds a pound sign that is not UTF-8.
      text = articles.read(name).decode(errors='replace')
      label = classes.index(name.partition('/')[0])
      examples.append(Example(text, label))
  told = Source(classes, tuple(examples))
  return _asked(told, 'News', 'Topic', tuple(_TOPICS.values()))


def arithmetic() -> Source:
  """What a sum of two or three numbers comes to, written by the model."""
  return Source(
    (),
    tuple(
      Example(f'{_QUESTION}{expression} =\n', 0, answers=(answer,))
      for expression, answer in chain_sum.read()
    ),
  )


SOURCES: dict[str, Callable[[], Source]] = {
  'lm_sarcasm': sarcasm,
  'lm_movie': movie,
  'lm_topic': topic,
  'lm_arithmetic': arithmetic,
}


def make_task(name: str) -> Any:
  """What a task of `SOURCES` is, apart from its items."""
  if name != 'lm_arithmetic':
    return choice.Task(name, MAX_TOKENS)
  return generation.Task(
    name,
    MAX_TOKENS,
    max_new_tokens=8,
    stop=('\n',),
    delimiter='',
    pattern=r'-?\d+',
  )


def cut(text: str) -> str:
  """The first words of a text, on one line."""
  words = text.split()[:_WORDS]
  while len(words) > 1 and len(' '.join(words)) > _CHARACTERS:
    words.pop()
  return ' '.join(words)


def _asked(
  source: Source, kind: str, question: str, choices: tuple[str, ...]
) -> Source:
  """A classification of texts as a choice between words."""
  return Source(
    source.classes,
    tuple(
      Example(f'{kind}: {cut(text)}\n{question}:', label, choices)
      for text, label, *_ in source.train
    ),
  )
