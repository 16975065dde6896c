"""Perplexity: how likely a text is, alone or behind a context."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from automerge_jax import trees
from automerge_jax.tasks import choice, continuations
from automerge_jax.tasks.likelihood import Query
from automerge_jax.tasks.packing import Request
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED, Family

UNITS = ('token', 'byte', 'word')


@dataclasses.dataclass(frozen=True)
class Task:
  """What a task is, apart from its items.

  Attributes:
    name: as in sources and configs.
    max_tokens: most input tokens of one window; a longer text is read in
      several, each of its tokens predicted once.
    unit: what the score is the log-likelihood of: a 'token', a 'byte' or a
      'word' of the text.
  """

  kind: ClassVar[str] = 'perplexity'
  metric: ClassVar[str] = 'inverse_perplexity'

  name: str
  max_tokens: int
  unit: str = 'token'

  def __post_init__(self):
    if self.unit not in UNITS:
      raise ValueError(
        f'task {self.name!r} has the unknown unit {self.unit!r}'
        + trees.nearest(self.unit, UNITS)
      )


def encode(
  task: Task,
  items: Sequence[Item],
  family: Family,
  folder: str | pathlib.Path,
) -> tuple[list[Query], np.ndarray]:
  """Queries, and flags [n] of those whose context was cut off.

  Args:
    task: what the items are of.
    items: each with one choice, the text, and in `text` its context or ''.
    family: of the models that will be scored.
    folder: of a model, for its tokenizer.

  Raises:
    ValueError: for an item without exactly one choice, or if the model takes
      fewer tokens than `max_tokens`.
  """
  choice.check_length(task, family)
  for item in items:
    if len(item.choices) != 1 or not item.choices[0]:
      raise ValueError(
        f'item {item.id} of task {task.name!r} has {len(item.choices)} '
        'choices; expected one, the text whose perplexity counts'
      )
  coder = continuations.coder(folder, family.encoder is not None)
  whole = whole_texts(coder, [(item.text, item.choices[0]) for item in items])
  queries, flags = [], []
  for item, request in zip(items, whole, strict=True):
    windows = rolling(request, task.max_tokens)
    divisor = counts(item.choices[0], len(request.continuation))[task.unit]
    queries.append(
      Query((tuple(windows),), (float(divisor),), False, coder.decoder_start)
    )
    cut = len(request.context) > task.max_tokens
    flags.append(TRUNCATED if cut else 0)
  return queries, np.asarray(flags, np.uint8)


def whole_texts(
  coder: continuations.Coder, pairs: Sequence[tuple[str, str]]
) -> list[Request]:
  """Requests of (context, text) pairs; without a context as lm-eval's rolling.

  That is the prefix token, and then the text with its special tokens.
  """
  behind = iter(continuations.requests(coder, [p for p in pairs if p[0]]))
  texts = [text for context, text in pairs if not context]
  alone = iter(continuations.encode(coder, texts))
  return [
    next(behind) if context else Request((coder.prefix,), next(alone))
    for context, _ in pairs
  ]


def rolling(request: Request, max_tokens: int) -> list[Request]:
  """Windows of at most `max_tokens` inputs that predict each token once.

  The first one predicts what fits behind the context, the others as many
  tokens as they have inputs, but the last, which has the most inputs too.
  """
  context = request.context[-max_tokens:]
  tokens = context + request.continuation
  end = min(len(tokens), max_tokens + 1)
  windows = [Request(context, tokens[len(context) : end])]
  while end < len(tokens):
    begin, end = end, min(end + max_tokens, len(tokens))
    windows.append(
      Request(tokens[end - max_tokens - 1 : begin], tokens[begin:end])
    )
  return windows


def counts(text: str, tokens: int) -> dict[str, int]:
  """Number of each unit in a text; words are what white space separates."""
  words = len(re.split(r'\s+', text))
  return {'token': tokens, 'byte': len(text.encode()), 'word': words}


def corpus(
  queries: Sequence[Query], items: Sequence[Item], nats: Sequence[float]
) -> dict[str, float]:
  """Perplexity of all items together, by unit, and bits a byte.

  Args:
    queries: what `encode` made of the items.
    items: the texts.
    nats: log-likelihood of each.
  """
  total = dict.fromkeys(UNITS, 0)
  for query, item in zip(queries, items, strict=True):
    tokens = sum(len(window.continuation) for window in query.choices[0])
    for unit, count in counts(item.choices[0], tokens).items():
      total[unit] += count
  loss = -math.fsum(nats)
  return {
    f'{unit}_perplexity': math.exp(loss / total[unit]) for unit in UNITS
  } | {'bits_per_byte': loss / total['byte'] / math.log(2)}
