"""Text classification: items in length buckets, pooling, heads, scores."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.types import Array, Items, ItemScores

LENGTHS = (16, 32, 48, 64)
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


def bucket(
  token_lists: Sequence[Sequence[int]],
  tasks: Sequence[int],
  labels: Sequence[int],
  lengths: Sequence[int] = LENGTHS,
  tokens_per_chunk: int = 2048,
) -> tuple[Items, ...]:
  """Items grouped by length, each group in equal chunks.

  A bucket of n items and length T has C = ceil(n T / tokens_per_chunk) chunks
  of B = ceil(n / C) items. Padding points one past the last slot and has one
  valid token, so that its hidden states are finite.

  Args:
    token_lists: token ids of each item.
    tasks: task index of each item.
    labels: class index of each item.
    lengths: bucket lengths T, ascending.
    tokens_per_chunk: tokens that one forward pass holds.

  Returns:
    `Items` of each bucket that is not empty, leaves [C, B, T] and [C, B].

  Raises:
    ValueError: if an item is longer than the last bucket or has no token.
  """
  total = len(token_lists)
  sizes = np.array([len(tokens) for tokens in token_lists])
  if total and (sizes.max() > max(lengths) or not sizes.min()):
    raise ValueError(
      f'items have {sizes.min()} to {sizes.max()} tokens; expected 1 to '
      f'{max(lengths)}: cut the texts or add a longer bucket'
    )
  which = np.searchsorted(lengths, sizes)
  buckets = []
  for index, length in enumerate(lengths):
    slots = np.flatnonzero(which == index)
    if not len(slots):
      continue
    chunks = math.ceil(len(slots) * length / tokens_per_chunk)
    batch = math.ceil(len(slots) / chunks)
    padded = np.full(chunks * batch, total)
    padded[: len(slots)] = slots
    inputs = pad([token_lists[s] if s < total else [0] for s in padded], length)
    buckets.append(
      Items(
        inputs={
          name: rows.reshape(chunks, batch, length)
          for name, rows in inputs.items()
        },
        task=_gather(tasks, padded).reshape(chunks, batch),
        label=_gather(labels, padded).reshape(chunks, batch),
        slot=padded.astype(np.int32).reshape(chunks, batch),
      )
    )
  return tuple(buckets)


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
  square = jnp.mean(jnp.square(mean), -1, keepdims=True)
  return mean * jax.lax.rsqrt(square + 1e-12)


def stack_heads(
  heads: Sequence[tuple[np.ndarray, np.ndarray]],
) -> dict[str, np.ndarray]:
  """Heads of several tasks as one; absent classes can never win.

  Args:
    heads: (kernel [d, C], bias [C]) of each task.

  Returns:
    `kernel` [tasks, d, C_max] and `bias` [tasks, C_max], float32.
  """
  most = max(len(bias) for _, bias in heads)
  width = heads[0][0].shape[0]
  kernel = np.zeros((len(heads), width, most), np.float32)
  offset = np.full((len(heads), most), ABSENT, np.float32)
  for i, (weights, bias) in enumerate(heads):
    kernel[i, :, : len(bias)] = weights
    offset[i, : len(bias)] = bias
  return {'kernel': kernel, 'bias': offset}


def logits(heads: Heads, features: Array, task: Array) -> Array:
  """Logits of each item under its own task's head.

  Args:
    heads: kernel [tasks, d, C], bias [tasks, C].
    features: pooled, [B, d].
    task: int32 [B].

  Returns:
    [B, C].
  """
  every = jnp.einsum('bd,tdc->btc', features, heads['kernel'])
  every = every + heads['bias'][None]
  return jnp.take_along_axis(every, task[:, None, None], 1)[:, 0]


def score(heads: Heads, hidden: Array, items: Items) -> ItemScores:
  """Scores of one chunk of items, of any mixture of tasks.

  Args:
    heads: kernel [tasks, d, C], bias [tasks, C].
    hidden: last hidden states, [B, T, d].
    items: the chunk, leaves [B, T] and [B].

  Returns:
    `ItemScores`, leaves [B]; rows of padding are finite and meaningless.
  """
  features = pool(hidden, items.inputs['mask'])
  values = logits(heads, features, items.task)
  log_probability = jax.nn.log_softmax(values)
  return ItemScores(
    score=(jnp.argmax(values, -1) == items.label).astype(jnp.float32),
    log_likelihood=jnp.take_along_axis(
      log_probability, items.label[:, None], 1
    )[:, 0],
  )


def _gather(values: Sequence[int], padded: np.ndarray) -> np.ndarray:
  return np.append(np.asarray(values, np.int32), np.int32(0))[padded]
