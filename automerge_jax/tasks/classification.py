"""Text classification: items in length buckets, pooling, heads, scores."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.io import tokenizers
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED, Array, Family, Items, ItemScores

BUCKETS = 4  # shapes that an item set may have
ABSENT = -1e9  # logit of a class that a task does not have

Heads = Mapping[str, Array]  # kernel [tasks, d, C], bias [tasks, C]


@dataclasses.dataclass(frozen=True)
class Task:
  """What a task is, apart from its items.

  Attributes:
    name: as in sources and configs.
    classes: class names, in label order.
    max_tokens: texts are cut to this many tokens.
    metric: of its items, 'accuracy' or 'log_likelihood'.
  """

  name: str
  classes: tuple[str, ...]
  max_tokens: int
  metric: str = 'accuracy'
  kind: ClassVar[str] = 'classification'


def encode(
  task: Task,
  items: Sequence[Item],
  family: Family,
  folder: str | pathlib.Path,
) -> tuple[list[tuple[int, ...]], np.ndarray]:
  """Token ids of each text, and `TRUNCATED` where it was cut, uint8 [n].

  Raises:
    ValueError: if the model takes fewer tokens than `max_tokens`.
  """
  if family.max_tokens is not None and task.max_tokens > family.max_tokens:
    raise ValueError(
      f'task {task.name!r} has max_tokens={task.max_tokens}; the model takes '
      f'{family.max_tokens}'
    )
  tokenizer = tokenizers.load(folder)
  texts = [item.text for item in items]
  tokens = tokenizers.encode(tokenizer, texts, task.max_tokens)
  # One more than is kept, to see whether something is cut off.
  longer = tokenizers.encode(tokenizer, texts, task.max_tokens + 1)
  cut = np.asarray([len(ids) > task.max_tokens for ids in longer], bool)
  return list(map(tuple, tokens)), cut.astype(np.uint8) * TRUNCATED


def bucket(
  token_lists: Sequence[Sequence[int]],
  tasks: Sequence[int],
  labels: Sequence[int],
  lengths: Sequence[int] | None = None,
  tokens_per_chunk: int = 2048,
  slots: Sequence[int] | np.ndarray | None = None,
  total: int | None = None,
) -> tuple[Items, ...]:
  """Items grouped by length, each group in equal chunks.

  A bucket of n items and length T has C = ceil(n T / tokens_per_chunk) chunks
  of B = ceil(n / C) items. Padding points one past the last slot and has one
  valid token, so that its hidden states are finite.

  Args:
    token_lists: token ids of each item.
    tasks: task index of each item.
    labels: class index of each item.
    lengths: bucket lengths T, ascending; by default those that pad least.
    tokens_per_chunk: tokens that one forward pass holds.
    slots: positions in the whole item list; by default 0, 1, ...
    total: length of the whole item list; by default of this one.

  Returns:
    `Items` of each bucket that is not empty, leaves [C, B, T] and [C, B].

  Raises:
    ValueError: if an item is longer than the last bucket or has no token.
  """
  count = len(token_lists)
  slots = np.arange(count) if slots is None else np.asarray(slots)
  total = count if total is None else total
  sizes = np.array([len(tokens) for tokens in token_lists])
  lengths = best_lengths(sizes) if lengths is None else lengths
  if count and (sizes.max() > max(lengths) or not sizes.min()):
    raise ValueError(
      f'items have {sizes.min()} to {sizes.max()} tokens; expected 1 to '
      f'{max(lengths)}: cut the texts or add a longer bucket'
    )
  which = np.searchsorted(lengths, sizes)
  buckets = []
  for index, length in enumerate(lengths):
    mine = np.flatnonzero(which == index)
    if not len(mine):
      continue
    chunks = math.ceil(len(mine) * length / tokens_per_chunk)
    batch = math.ceil(len(mine) / chunks)
    padded = np.full(chunks * batch, count)
    padded[: len(mine)] = mine
    inputs = pad([token_lists[s] if s < count else [0] for s in padded], length)
    buckets.append(
      Items(
        inputs={
          name: rows.reshape(chunks, batch, length)
          for name, rows in inputs.items()
        },
        task=_gather(tasks, padded).reshape(chunks, batch),
        label=_gather(labels, padded).reshape(chunks, batch),
        slot=np.append(slots, total)[padded]
        .astype(np.int32)
        .reshape(chunks, batch),
      )
    )
  return tuple(buckets)


def best_lengths(sizes: np.ndarray, most: int = BUCKETS) -> tuple[int, ...]:
  """At most so many bucket lengths, with the least padding in all.

  Args:
    sizes: tokens of each item, [n].
    most: number of lengths.
  """
  lengths, counts = np.unique(sizes, return_counts=True)
  below = np.concatenate([[0], np.cumsum(counts)])
  # best[k][j]: least tokens of the j shortest lengths in k + 1 buckets.
  best = [lengths * below[1:]]
  cuts: list[np.ndarray] = []
  for _ in range(min(most, len(lengths)) - 1):
    # cost[i, j]: lengths up to i in the buckets before, i + 1 to j in one.
    cost = best[-1][:, None] + lengths * (below[1:] - below[1:, None])
    cost = np.where(np.triu(np.ones_like(cost), 1), cost, np.inf)
    cuts.append(cost.argmin(0))
    best.append(np.minimum(best[-1], cost.min(0)))
    cuts[-1] = np.where(best[-1] < best[-2], cuts[-1], -1)
  chosen, at = [], len(lengths) - 1
  for cut in reversed([*cuts]):
    if cut[at] >= 0:
      chosen.append(int(lengths[at]))
      at = int(cut[at])
  return tuple(sorted([*chosen, int(lengths[at])]))


def pad(
  token_lists: Sequence[Sequence[int]], length: int
) -> dict[str, np.ndarray]:
  """`ids` and `mask`, int32 [n, length]; padding has id 0 and mask 0."""
  ids = np.zeros((len(token_lists), length), np.int32)
  mask = np.zeros_like(ids)
  for row, tokens in enumerate(token_lists):
    ids[row, : len(tokens)] = tokens
    mask[row, : len(tokens)] = 1
  return {'ids': ids, 'mask': mask}


def pool(hidden: Array, mask: Array) -> Array:
  """Mean of the valid tokens' hidden states, scaled to unit mean square.

  The scale is removed because an average of models has shorter features than
  each of them, which is no reason to be less sure of a class.

  Args:
    hidden: [..., B, T, d].
    mask: 1 at valid tokens, [..., B, T].

  Returns:
    Features, float32 [..., B, d].
  """
  weight = mask.astype(jnp.float32)[..., None]
  mean = jnp.sum(hidden.astype(jnp.float32) * weight, -2) / jnp.sum(weight, -2)
  return _unit(mean)


def features(hidden: Array, inputs: Mapping[str, Array]) -> Array:
  """Features of texts, pooled, or of images: those of the class token.

  Args:
    hidden: last hidden states, [..., B, T, d].
    inputs: with `pixels`, or with `mask` [..., B, T].

  Returns:
    Features, float32 [..., B, d], of unit mean square.
  """
  if 'pixels' in inputs:
    return _unit(hidden[..., 0, :].astype(jnp.float32))
  return pool(hidden, inputs['mask'])


def _unit(x: Array) -> Array:
  square = jnp.mean(jnp.square(x), -1, keepdims=True)
  return x * jax.lax.rsqrt(square + 1e-12)


def stack_heads(
  heads: Sequence[tuple[np.ndarray, np.ndarray] | None],
) -> dict[str, np.ndarray]:
  """Heads of several tasks as one; absent classes can never win.

  Args:
    heads: (kernel [d, C], bias [C]) of each task, None for one without.

  Returns:
    `kernel` [tasks, d, C_max] and `bias` [tasks, C_max], float32.
  """
  given = [head for head in heads if head is not None]
  most = max((len(bias) for _, bias in given), default=0)
  width = given[0][0].shape[0] if given else 0
  kernel = np.zeros((len(heads), width, most), np.float32)
  offset = np.full((len(heads), most), ABSENT, np.float32)
  for i, head in enumerate(heads):
    if head is None:
      continue
    weights, bias = head
    kernel[i, :, : len(bias)] = weights
    offset[i, : len(bias)] = bias
  return {'kernel': kernel, 'bias': offset}


def logits(heads: Heads, pooled: Array, task: Array) -> Array:
  """Logits of each item under its own task's head.

  Args:
    heads: kernel [tasks, d, C], bias [tasks, C].
    pooled: features of the items, [B, d].
    task: int32 [B].

  Returns:
    [B, C].
  """
  every = jnp.einsum('bd,tdc->btc', pooled, heads['kernel'])
  every = every + heads['bias'][None]
  return jnp.take_along_axis(every, task[:, None, None], 1)[:, 0]


def score(heads: Heads, hidden: Array, items: Items) -> ItemScores:
  """Scores of one chunk of items, of any mixture of tasks.

  Args:
    heads: kernel [tasks, d, C], bias [tasks, C].
    hidden: last hidden states, [B, T, d].
    items: the chunk, leaves [B, T] and [B].

  Returns:
    `ItemScores`, leaves [B], and `choices` [B, C]; rows of padding are finite
    where those of items are, and meaningless.
  """
  values = logits(heads, features(hidden, items.inputs), items.task)
  log_probability = jax.nn.log_softmax(values)
  return ItemScores(
    score=(jnp.argmax(values, -1) == items.label).astype(jnp.float32),
    log_likelihood=jnp.take_along_axis(
      log_probability, items.label[:, None], 1
    )[:, 0],
    choices=jnp.where(values > ABSENT / 2, log_probability, -jnp.inf),
  )


def _gather(values: Sequence[int], padded: np.ndarray) -> np.ndarray:
  return np.append(np.asarray(values, np.int32), np.int32(0))[padded]
