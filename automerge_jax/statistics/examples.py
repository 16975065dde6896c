"""Items one by one as arrays, for statistics that look at single examples.

Items of about the same length share a shape, whatever their tasks, so that one
compiled function serves all tasks; which rows are whose is a table.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from automerge_jax.tasks import classification, kinds
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import Array, Items

FINITE = ('classification', 'images', 'choice')  # kinds with a set of answers


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Piece:
  """E examples of one shape, in the order of their tasks.

  Attributes:
    data: as `kinds.scores` takes it, leaves [E, ...], one item a row.
    answers: how many each item has, int32 [E]; 1 without a set of answers.
    bounds: rows bounds[t] to bounds[t + 1] - 1 are of task t, [tasks + 1].
    width: most answers of an item.
    finite: whether the items have a set of answers.
  """

  data: Any
  answers: Array
  bounds: Array
  width: int = dataclasses.field(metadata={'static': True})
  finite: bool = dataclasses.field(metadata={'static': True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Examples:
  """Examples of several tasks on the device.

  Attributes:
    pieces: by shape.
    counts: examples of each task, float32 [tasks].
    end: items with this slot or a higher one are padding, int32 [].
  """

  pieces: tuple[Piece, ...]
  counts: Array
  end: Array


def build(items: ItemSet, lengths: int = 2) -> Examples:
  """Every item as an example.

  Args:
    items: of the tasks.
    lengths: to how many different ones texts of a kind are padded; fewer are
      compiled faster, more compute less padding.

  Raises:
    ValueError: if a task has no item, or none that a device can score.
  """
  counts = np.bincount(items.task, minlength=len(items.tasks))
  for task, count in zip(items.definitions, counts, strict=True):
    if not count or not kinds.of(task).data:
      raise ValueError(
        f'task {task.name!r} of the kind {task.kind!r} gives {count} items; '
        'expected one at least, of a kind that is scored on the device'
      )
  pieces: list[Piece] = []
  for kind in dict.fromkeys(task.kind for task in items.definitions):
    mine = [t for t, task in enumerate(items.definitions) if task.kind == kind]
    slots = np.flatnonzero(np.isin(items.task, mine))
    slots = slots[np.argsort(items.task[slots], kind='stable')]
    for data in _data(items, kind, slots, lengths):
      pieces.append(_piece(items, kind, data))
  return jax.tree.map(
    jnp.asarray,
    Examples(tuple(pieces), counts.astype(np.float32), np.int32(len(items))),
  )


def _data(
  items: ItemSet, kind: str, slots: np.ndarray, lengths: int
) -> list[Any]:
  """Arrays of leaves [E, ...]; what is about as long comes together."""
  made = kinds.KINDS[kind]
  if made.data == (Items,):
    chunks = made.arrays(items, slots, 2**30)
    rows = [jax.tree.map(lambda leaf: leaf[0][:, None], c) for c in chunks]
    return rows if kind == 'images' else _padded(items, rows, lengths)
  sizes = np.asarray([_size(items.encoded[slot]) for slot in slots])
  chosen = classification.best_lengths(sizes, lengths)
  which = np.searchsorted(chosen, sizes)
  grouped = [slots[which == index] for index in range(len(chosen))]
  return [
    data
    for group in grouped
    for data in made.minibatches(items, group, len(group), None)
  ]


def _padded(items: ItemSet, rows: Sequence[Items], lengths: int) -> list[Items]:
  """Texts [E, 1, T] of several lengths T as those of fewer."""
  sizes = [one.inputs['ids'].shape[-1] for one in rows]
  counts = [len(one.slot) for one in rows]
  chosen = classification.best_lengths(np.repeat(sizes, counts), lengths)
  found = []
  for index, length in enumerate(chosen):
    parts = [
      dataclasses.replace(
        one,
        inputs={
          name: np.pad(leaf, ((0, 0), (0, 0), (0, length - size)))
          for name, leaf in one.inputs.items()
        },
      )
      for one, size in zip(rows, sizes, strict=True)
      if np.searchsorted(chosen, size) == index
    ]
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
    order = np.argsort(items.task[whole.slot[:, 0]], kind='stable')
    found.append(jax.tree.map(lambda leaf, at=order: leaf[at], whole))
  return found


def _size(encoded: Any) -> int:
  """About how many tokens are computed for an item."""
  if not hasattr(encoded, 'choices'):  # a prompt and the answer to it
    return len(encoded.source or encoded.prompt) + len(encoded.answer)
  longest = max(
    (request.context for choice in encoded.choices for request in choice),
    key=len,
  )
  return len(longest) + sum(
    len(request.continuation)
    for choice in encoded.choices
    for request in choice
  )


def _piece(items: ItemSet, kind: str, data: Any) -> Piece:
  slots = np.asarray(data.slot).reshape(-1)
  task = items.task[slots]
  answers = [_answers(items, kind, slot) for slot in slots]
  return Piece(
    data,
    np.asarray(answers, np.int32),
    np.searchsorted(task, np.arange(len(items.tasks) + 1)).astype(np.int32),
    max(answers),
    kind in FINITE,
  )


def _answers(items: ItemSet, kind: str, slot: int) -> int:
  if kind == 'choice':
    return len(items.encoded[slot].choices)
  if kind in FINITE:
    return len(items.definitions[items.task[slot]].classes)
  return 1
