"""What a search needs of each kind of task, by the kind's name.

Items are encoded and become arrays once, on the host; what follows is one
jitted function of parameters and arrays, whatever kinds of items there are.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax import trees
from automerge_jax.models import base as models
from automerge_jax.tasks import (
  choice,
  classification,
  decoding,
  generation,
  images,
  likelihood,
  perplexity,
)
from automerge_jax.tasks.packing import Request
from automerge_jax.tasks.partition import Item
from automerge_jax.types import Array, Family, Items, ItemScores

if TYPE_CHECKING:
  from automerge_jax.tasks.itemset import ItemSet


class Kind(NamedTuple):
  """A kind of task as pure functions.

  Attributes:
    encode: `(task, items, family, folder) -> (one object an item, flags [n])`.
    arrays: `(item set, slots, tokens) -> data, ...`: the items at these
      positions as registered dataclasses of arrays, in chunks of about so
      many tokens.
    minibatches: `(item set, slots, count, tokens) -> data, ...`, leaves
      [count, ...]: the same in equal shares, each in chunks of about so many
      tokens, or for None in one piece, for gradient steps.
    data: the classes of `data`.
    scores: `(family, params, heads, data) -> (ItemScores [m], slots [m])`;
      slots of padding are one past the end.
    finish: `(item set, slots, answers [m, A]) -> (scores [m], flags [m])`, of
      what only the host can judge.
  """

  encode: Callable[..., tuple[Sequence[Any], np.ndarray]]
  arrays: Callable[..., tuple[Any, ...]]
  minibatches: Callable[..., tuple[Any, ...]]
  data: tuple[type, ...]
  scores: Callable[..., tuple[ItemScores, Array]]
  finish: Callable[..., tuple[np.ndarray, np.ndarray]] | None = None


def of(task: Any) -> Kind:
  """The kind of a task.

  Raises:
    ValueError: for one that cannot be scored on the device.
  """
  if task.kind not in KINDS:
    raise ValueError(
      f'task {task.name!r} is of the kind {task.kind!r}'
      + trees.nearest(task.kind, list(KINDS))
    )
  return KINDS[task.kind]


def arrays(items: 'ItemSet', tokens_per_chunk: int = 2048) -> tuple[Any, ...]:
  """All items as arrays on the device, a forward pass a chunk."""
  made: list[Any] = []
  for kind, slots in _by_kind(items):
    made += kind.arrays(items, slots, tokens_per_chunk)
  return jax.tree.map(jnp.asarray, tuple(made))


def minibatches(items: 'ItemSet', count: int) -> tuple[Any, ...]:
  """All items in `count` equal shares, leaves [count, ...], on the device."""
  return _shares(items, count, None)


def blocks(
  items: 'ItemSet', count: int, tokens_per_chunk: int = 2048
) -> tuple[Any, ...]:
  """All items in `count` equal shares, each as `arrays` makes them.

  The shares hold about the same of every task; leaves [count, ...], on the
  device.
  """
  return _shares(items, count, tokens_per_chunk)


def scores(
  family: Family,
  params: Any,
  heads: Mapping[str, Array],
  data: Any,
  choices: bool = False,
) -> tuple[ItemScores, Array]:
  """Scores of the items in one piece of data, and their slots.

  Args:
    family: of the model.
    params: of the model.
    heads: stacked task heads.
    data: one piece of what `arrays` or `minibatches` made.
    choices: whether to return `ItemScores.choices`, where there are any.
  """
  kind = next(k for k in KINDS.values() if isinstance(data, k.data))
  found, slots = kind.scores(family, params, heads, data)
  return found if choices else dataclasses.replace(found, choices=None), slots


def finish(
  items: 'ItemSet', scores: ItemScores
) -> tuple[np.ndarray, np.ndarray]:
  """Item scores [n] with those that only the host can tell, and flags [n].

  Args:
    items: what was scored.
    scores: of one model, leaves [n], on the host.
  """
  metric, flags = np.array(scores.score), items.flags.copy()
  for kind, slots in _by_kind(items):
    if kind.finish is not None and scores.answer is not None:
      metric[slots], marks = kind.finish(items, slots, scores.answer[slots])
      flags[slots] |= marks
  return metric, flags


def _shares(
  items: 'ItemSet', count: int, tokens_per_chunk: int | None
) -> tuple[Any, ...]:
  made: list[Any] = []
  for kind, slots in _by_kind(items):
    made += kind.minibatches(items, slots, count, tokens_per_chunk)
  return jax.tree.map(jnp.asarray, tuple(made))


def _by_kind(items: 'ItemSet') -> Iterator[tuple[Kind, np.ndarray]]:
  kinds = [of(task) for task in items.definitions]
  for kind in dict.fromkeys(kinds):
    mine = [i for i, k in enumerate(kinds) if k is kind]
    slots = np.flatnonzero(np.isin(items.task, mine))
    if len(slots):
      yield kind, slots


def _bucketed(
  bucket: Callable[..., tuple[Items, ...]],
) -> tuple[Callable[..., tuple[Items, ...]], Callable[..., tuple[Items, ...]]]:
  """`arrays` and `minibatches` of items that come in buckets of one size."""

  def arrays(items: 'ItemSet', slots: np.ndarray, tokens_per_chunk: int):
    return bucket(
      [items.encoded[i] for i in slots],
      items.task[slots],
      items.label[slots],
      tokens_per_chunk=tokens_per_chunk,
      slots=slots,
      total=len(items),
    )

  def minibatches(
    items: 'ItemSet', slots: np.ndarray, count: int, tokens: int | None
  ):
    """Deals the items of each bucket in turn: equal shapes, like mixtures."""
    dealt = []
    pieces = arrays(items, slots, 2**30)
    most = [
      piece.slot.shape[1]
      for piece in (pieces if tokens is None else arrays(items, slots, tokens))
    ]
    for whole, rows in zip(pieces, most, strict=True):
      flat = jax.tree.map(lambda leaf: leaf[0], whole)  # one chunk
      real = np.flatnonzero(flat.slot < len(items))
      size = -(-len(real) // count)
      order = np.full(size * count, -1)
      order[: len(real)] = real
      order = order.reshape(size, count).T  # [count, B]
      if tokens is not None:
        chunks = -(-size // rows)
        batch = -(-size // chunks)
        spare = ((0, 0), (0, chunks * batch - size))
        order = np.pad(order, spare, constant_values=-1)
        order = order.reshape(count, chunks, batch)
      share = jax.tree.map(lambda leaf, at=order: leaf[at], flat)
      share.slot[order < 0] = len(items)
      dealt.append(share)
    return tuple(dealt)

  return arrays, minibatches


def _class_scores(family, params, heads, data: Items):
  def chunk(items: Items) -> ItemScores:
    hidden = models.forward(family, params, items.inputs)
    return classification.score(heads, hidden, items)

  if data.slot.ndim == 1:  # a minibatch
    return chunk(data), data.slot
  found = jax.lax.map(chunk, data)
  return jax.tree.map(jnp.concatenate, found), jnp.concatenate(data.slot)


def _likelihood_scores(family, params, heads, data: likelihood.Data):
  """As told by `likelihood.score`; a text's own score becomes a probability.

  So all scores are between 0 and 1, and that of a text is the inverse of its
  perplexity.
  """
  del heads
  scores, slots = likelihood.score(family, params, data)
  score = jnp.where(data.compared, scores.score, jnp.exp(scores.score))
  return dataclasses.replace(scores, score=score), slots


def _by_task(items: 'ItemSet', slots: np.ndarray):
  for index in np.unique(items.task[slots]):
    yield items.definitions[index], slots[items.task[slots] == index]


def _queues(items: 'ItemSet', slots: np.ndarray, tokens_per_chunk: int):
  return tuple(
    generation.queue(
      task,
      [items.encoded[i] for i in mine],
      mine,
      len(items),
      tokens_per_chunk=tokens_per_chunk,
    )
    for task, mine in _by_task(items, slots)
  )


def _answer_minibatches(
  items: 'ItemSet', slots: np.ndarray, count: int, tokens: int | None
):
  """The first accepted answers, whose likelihood has a gradient."""
  encoded = list(items.encoded)
  for i in slots:
    one: generation.Encoded = items.encoded[i]
    start = one.prompt[0] if one.source else None
    asked = Request(one.source or one.prompt, one.answer)
    encoded[i] = likelihood.Query(((asked,),), (1.0,), False, start)
  told = dataclasses.replace(items, encoded=tuple(encoded))
  return likelihood.minibatches(told, slots, count, tokens)


def _graded(items: 'ItemSet', slots: np.ndarray, answers: np.ndarray):
  score = np.zeros(len(slots), np.float32)
  flags = np.zeros(len(slots), np.uint8)
  for task, mine in _by_task(items, slots):
    at = np.searchsorted(slots, mine)
    graded = generation.grade(
      task,
      [items.items[i] for i in mine],
      [items.encoded[i] for i in mine],
      answers[at],
    )
    score[at], flags[at] = graded.score, graded.flags
  return score, flags


def _named(task, items: Sequence[Item], family, folder):
  """An external scorer knows items by their names."""
  del task, family, folder
  return [item.text for item in items], np.zeros(len(items), np.uint8)


def _nothing(*given):
  raise AssertionError('external tasks have no arrays to score')


_LIKELIHOOD = (
  likelihood.arrays,
  likelihood.minibatches,
  (likelihood.Data,),
  _likelihood_scores,
)
KINDS: dict[str, Kind] = {
  'classification': Kind(
    classification.encode,
    *_bucketed(classification.bucket),
    (Items,),
    _class_scores,
  ),
  'images': Kind(
    images.encode, *_bucketed(images.bucket), (Items,), _class_scores
  ),
  'choice': Kind(choice.encode, *_LIKELIHOOD),
  'perplexity': Kind(perplexity.encode, *_LIKELIHOOD),
  'generation': Kind(
    generation.encode,
    _queues,
    _answer_minibatches,
    (decoding.Queue,),
    generation.scores,
    _graded,
  ),
  'external': Kind(_named, lambda *given: (), lambda *given: (), (), _nothing),
}
