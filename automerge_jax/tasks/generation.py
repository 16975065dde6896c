"""Tasks in which the model writes its answer: encoding, scores, grades."""

import dataclasses
import json
import math
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
import tokenizers as hf_tokenizers

from automerge_jax.io import tokenizers
from automerge_jax.tasks import answers, decoding, stops
from automerge_jax.tasks.decoding import Queue
from automerge_jax.tasks.partition import Item
from automerge_jax.types import (
  TRUNCATED,
  UNPARSED,
  Array,
  Family,
  ItemScores,
  Params,
)

BATCH = 32  # rows that generate together
TOKENS_PER_CHUNK = 512  # that are read together; more at once, more padding
WIDTHS = 4  # of chunks; each is a program of its own


@dataclasses.dataclass(frozen=True)
class Task(answers.Rule):
  """What a task is, apart from its items; how answers are read, see `Rule`.

  Attributes:
    name: as in sources and configs.
    max_tokens: prompts keep this many tokens, their last.
    max_new_tokens: longest answer.
    stop: strings that end an answer and are no part of it, beside the tokens
      that end a text by the model's own account.
    delimiter: between a prompt and its accepted answer, where the likelihood
      of that is asked for.
    special_tokens: whether the tokenizer adds its own to prompts; a chat
      template has them already.
    temperature: 0 takes the likeliest token, else they are drawn.
    seed: of the draws, with each item's id.
    metric: of its items, 'exact_match'.
  """

  name: str
  max_tokens: int
  max_new_tokens: int
  stop: tuple[str, ...] = ()
  delimiter: str = ' '
  special_tokens: bool = True
  temperature: float = 0.0
  seed: int = 0
  metric: str = 'exact_match'
  kind: ClassVar[str] = 'generation'

  def __post_init__(self):
    super().__post_init__()
    if self.metric != 'exact_match':
      raise ValueError(
        f"task {self.name!r} has metric={self.metric!r}, expected 'exact_match'"
      )
    for field in ('max_tokens', 'max_new_tokens'):
      if getattr(self, field) < 1:
        raise ValueError(
          f'task {self.name!r} has {field}={getattr(self, field)}, expected 1 '
          'or more'
        )
    if not 0 <= self.temperature < math.inf:
      raise ValueError(
        f'task {self.name!r} has temperature={self.temperature}, expected 0 or '
        'more'
      )
    if '' in self.stop:
      raise ValueError(
        f'task {self.name!r} has an empty stop string; remove it'
      )

  def read(self, text: str, item: Item) -> answers.Reading:
    """The answer in a text, and whether it is right."""
    return answers.read(self, text, item.answers)


class Encoded(NamedTuple):
  """An item as token ids.

  Attributes:
    source: what an encoder reads, empty without one.
    prompt: what the decoder reads before it generates.
    answer: the first accepted answer, up to `max_new_tokens` of it.
    seed: of the item's draws.
    stops: what ends its text; one object for all items of a task.
    tokenizer: likewise.
  """

  source: tuple[int, ...]
  prompt: tuple[int, ...]
  answer: tuple[int, ...]
  seed: int
  stops: stops.Stops
  tokenizer: hf_tokenizers.Tokenizer


class Graded(NamedTuple):
  """What was made of generated tokens, of n items.

  Attributes:
    score: 1.0 for an accepted answer, else 0.0, float32 [n].
    flags: `TRUNCATED` for a text that came to no end, `UNPARSED` for one
      without an answer, uint8 [n].
    texts: up to their ends.
    answers: found in them, None without one.
  """

  score: np.ndarray
  flags: np.ndarray
  texts: tuple[str, ...]
  answers: tuple[str | None, ...]


def encode(
  task: Task,
  items: Sequence[Item],
  family: Family,
  folder: str | pathlib.Path,
) -> tuple[list[Encoded], np.ndarray]:
  """Items as token ids, and `TRUNCATED` where a prompt was cut, uint8 [n].

  Args:
    task: what to do with them.
    items: prompts with accepted answers.
    family: of the models that will generate.
    folder: of a model, for its tokenizer and the tokens that end a text.

  Raises:
    ValueError: naming an item without an accepted answer or without a prompt,
      a model that cannot generate, or lengths beyond the model's.
  """
  _check_family(task, family)
  for item in items:
    if not item.answers or not all(a.strip() for a in item.answers):
      raise ValueError(
        f'item {item.id} of task {task.name!r} has the accepted answers '
        f'{list(item.answers)}; give it at least one, and none that is empty'
      )
  tokenizer = tokenizers.load(folder)
  ends = stops.build(tokenizer, stops.ends(folder), task.stop)
  start = None if family.encoder is None else _start_token(folder)
  encoded, flags = [], np.zeros(len(items), np.uint8)
  for i, item in enumerate(items):
    prompt = tokenizer.encode(
      item.text, add_special_tokens=task.special_tokens
    ).ids
    if not prompt:
      raise ValueError(f'item {item.id} of task {task.name!r} has no prompt')
    answer = _answer(task, tokenizer, item, prompt, family)
    flags[i] = TRUNCATED if len(prompt) > task.max_tokens else 0
    own = tuple(prompt[-task.max_tokens :])
    encoded.append(
      Encoded(
        source=() if start is None else own,
        prompt=own if start is None else (start,),
        answer=tuple(answer[: task.max_new_tokens]),
        seed=zlib.crc32(f'{task.seed}/{item.id}'.encode()),
        stops=ends,
        tokenizer=tokenizer,
      )
    )
  return encoded, flags


def queue(
  task: Task,
  encoded: Sequence[Encoded],
  slots: Sequence[int] | np.ndarray,
  total: int,
  batch: int = BATCH,
  tokens_per_chunk: int = TOKENS_PER_CHUNK,
  widths: int = WIDTHS,
) -> Queue:
  """Items of one task as arrays, sorted by length.

  Args:
    task: of the items.
    encoded: the items, at least one.
    slots: their positions in the item set.
    total: items in that set.
    batch: rows that generate together.
    tokens_per_chunk: about as many are read together.
    widths: most widths of chunks.
  """
  sizes = np.array([_size(item) for item in encoded])
  order = np.argsort(sizes, kind='stable')
  batch = min(batch, len(order))
  rows = min(batch, max(1, tokens_per_chunk // int(sizes.max())))
  count = -(-len(order) // rows)
  rows = -(-len(order) // count)
  # Padding repeats the last item and is never taken.
  padded = np.append(order, np.full(count * rows - len(order), order[-1]))
  ranked = [encoded[i] for i in padded]
  longest = sizes[padded].reshape(count, rows).max(1)
  prompt = np.array([len(item.prompt) for item in ranked])
  answer = np.array([len(item.answer) for item in ranked])
  slot = np.full(len(padded), total)
  slot[: len(order)] = np.asarray(slots)[order]
  chunks = tuple(
    _inputs(ranked[begin * rows : end * rows], rows)
    for begin, end in _groups(longest, widths)
  )
  return Queue(
    chunks=chunks,
    length=prompt.astype(np.int32),
    seed=np.array([item.seed for item in ranked], np.uint32),
    count=np.asarray(len(order), np.int32),
    **_readouts(ranked, rows),
    stops=ranked[0].stops.table,
    slot=slot.astype(np.int32),
    memory=int((prompt + np.maximum(answer, task.max_new_tokens - 1)).max()),
    batch=batch,
    max_new_tokens=task.max_new_tokens,
    temperature=task.temperature,
  )


def scores(
  family: Family, params: Params, heads: Mapping[str, Array], data: Queue
) -> tuple[ItemScores, Array]:
  """What a model generates, and its slots in the item set, leaves [N].

  The score is NaN: only `grade` can tell it, on the host.
  """
  del heads
  made = decoding.generate(family, params, data)
  nothing = jnp.full(data.slot.shape, jnp.nan, jnp.float32)
  return ItemScores(nothing, made.log_likelihood, made.tokens), data.slot


def grade(
  task: Task,
  items: Sequence[Item],
  encoded: Sequence[Encoded],
  tokens: np.ndarray,
) -> Graded:
  """Texts, answers and scores of generated tokens; on the host.

  Args:
    task: of the items.
    items: with the accepted answers, [n].
    encoded: the same items, [n].
    tokens: generated, int [n, A] with A at least `max_new_tokens`; -1 behind
      the end.
  """
  score = np.zeros(len(items), np.float32)
  flags = np.zeros(len(items), np.uint8)
  texts, found = [], []
  for i, (item, code) in enumerate(zip(items, encoded, strict=True)):
    ids = [int(index) for index in tokens[i] if index >= 0]
    text, ended = stops.cut(code.tokenizer, code.stops, ids)
    reading = task.read(text, item)
    score[i] = reading.right
    if len(text) > answers.LONGEST or not ended:
      flags[i] |= TRUNCATED
    if reading.answer is None:
      flags[i] |= UNPARSED
    texts.append(text)
    found.append(reading.answer)
  return Graded(score, flags, tuple(texts), tuple(found))


def _check_family(task: Task, family: Family) -> None:
  if family.logits is None or family.cache is None or family.step is None:
    raise ValueError(
      f'task {task.name!r} asks a model of the family {family.name!r} to '
      'write, which has no vocabulary head or no memory for it'
    )
  own = task.max_tokens + task.max_new_tokens
  wanted = own if family.encoder is None else task.max_new_tokens
  if family.max_tokens is not None and wanted > family.max_tokens:
    raise ValueError(
      f'task {task.name!r} has max_tokens={task.max_tokens} and max_new_tokens='
      f'{task.max_new_tokens}; the model takes {family.max_tokens} tokens '
      'in all: lower one of them'
    )


def _answer(
  task: Task,
  tokenizer: hf_tokenizers.Tokenizer,
  item: Item,
  prompt: list[int],
  family: Family,
) -> list[int]:
  """The first accepted answer as it is tokenised behind the prompt."""
  answer = item.answers[0]
  if family.encoder is not None:
    return tokenizer.encode(answer, add_special_tokens=False).ids
  answer = task.delimiter + answer
  whole = tokenizer.encode(
    item.text + answer, add_special_tokens=task.special_tokens
  ).ids
  if whole[: len(prompt)] == prompt:
    return whole[len(prompt) :]
  return tokenizer.encode(answer, add_special_tokens=False).ids


def _start_token(folder: str | pathlib.Path) -> int:
  """What a decoder reads first."""
  path = pathlib.Path(folder) / 'config.json'
  start = json.loads(path.read_text()).get('decoder_start_token_id')
  if start is None:
    raise ValueError(
      f'{path} has no decoder_start_token_id; an encoder-decoder model needs '
      'one to generate'
    )
  return start


def _size(item: Encoded) -> int:
  """Tokens that are read of an item, by the stack that reads most of them."""
  return len(item.source) or len(item.prompt) + len(item.answer)


def _inputs(items: Sequence[Encoded], rows: int) -> dict[str, np.ndarray]:
  """Inputs of consecutive chunks, int32 [chunks, C, T]."""
  own = [(*item.prompt, *item.answer) for item in items]
  if not items[0].source:
    return _pad(own, rows, '')
  return _pad([i.source for i in items], rows, '') | _pad(own, rows, 'decoder_')


def _pad(
  token_lists: Sequence[Sequence[int]], rows: int, prefix: str
) -> dict[str, np.ndarray]:
  width = max(map(len, token_lists))
  ids = np.zeros((len(token_lists), width), np.int32)
  mask = np.zeros_like(ids)
  for row, tokens in enumerate(token_lists):
    ids[row, : len(tokens)] = tokens
    mask[row, : len(tokens)] = 1
  shape = (-1, rows, width)
  return {
    f'{prefix}ids': ids.reshape(shape),
    f'{prefix}mask': mask.reshape(shape),
  }


def _readouts(items: Sequence[Encoded], rows: int) -> dict[str, np.ndarray]:
  """`row`, `place` and `target` of a queue, int32 [chunks, R]."""
  chunks = []
  for begin in range(0, len(items), rows):
    chunk = items[begin : begin + rows]
    first = [
      (r, len(item.prompt) - 1, item.answer[0]) for r, item in enumerate(chunk)
    ]
    chunks.append(
      first
      + [
        (r, len(item.prompt) + i, token)
        for r, item in enumerate(chunk)
        for i, token in enumerate(item.answer[1:])
      ]
    )
  most = max(map(len, chunks))
  filled = [chunk + [(0, 0, -1)] * (most - len(chunk)) for chunk in chunks]
  row, place, target = np.asarray(filled, np.int32).transpose(2, 0, 1)
  return {'row': row, 'place': place, 'target': target}


def _groups(widths: np.ndarray, most: int) -> list[tuple[int, int]]:
  """Consecutive chunks in at most so many groups, with the least padding.

  Args:
    widths: of the chunks, ascending, [n].
    most: groups.

  Returns:
    (begin, end) of each group, which takes the width of its last chunk.
  """
  n = len(widths)
  best = [[0] + [math.inf] * n]  # by groups and chunks
  last: list[list[int]] = [[0] * (n + 1)]
  for _ in range(min(most, n)):
    costs, begins = [math.inf], [0]
    for end in range(1, n + 1):
      cost = [
        best[-1][b] + (end - b) * int(widths[end - 1]) for b in range(end)
      ]
      begins.append(int(np.argmin(cost)))
      costs.append(min(cost))
    best.append(costs)
    last.append(begins)
  groups: list[tuple[int, int]] = []
  end, count = n, int(np.argmin([costs[n] for costs in best]))
  while end:
    begin = last[count][end]
    groups.append((begin, end))
    end, count = begin, count - 1
  return groups[::-1]
