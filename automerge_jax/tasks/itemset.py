"""Items of several tasks, encoded once before anything is scored."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from automerge_jax.tasks import kinds
from automerge_jax.tasks.partition import Item
from automerge_jax.types import Family


@dataclasses.dataclass(frozen=True)
class ItemSet:
  """Encoded items of several tasks.

  Attributes:
    tasks: task names, in the order that `task` indexes.
    ids: content id of each item, [n].
    encoded: of each item what its kind makes of it, such as token ids, [n].
    task: index of each item's task, int32 [n].
    label: index of each item's class or right choice, int32 [n].
    flags: `TRUNCATED` where encoding cut something off, uint8 [n].
    definitions: of each task: what it is, apart from its items.
    items: as they are in their splits, [n].
  """

  tasks: tuple[str, ...]
  ids: tuple[str, ...]
  encoded: tuple[Any, ...]
  task: np.ndarray
  label: np.ndarray
  flags: np.ndarray
  definitions: tuple[Any, ...]
  items: tuple[Item, ...]

  def __len__(self) -> int:
    return len(self.ids)


def build(
  tasks: Sequence[Any],
  items: Mapping[str, Sequence[Item]],
  family: Family,
  folder: str | pathlib.Path,
) -> ItemSet:
  """Encodes the items of each task, in the order of `tasks`.

  Args:
    tasks: what each task is.
    items: of each task, by name.
    family: of the models that will be scored.
    folder: of a model, for tokenizer and image preprocessing.
  """
  rows = [item for task in tasks for item in items[task.name]]
  encoded: list[Any] = []
  flags: list[np.ndarray] = []
  for task in tasks:
    made, marks = kinds.of(task).encode(task, items[task.name], family, folder)
    encoded += made
    flags.append(marks)
  sizes = [len(items[task.name]) for task in tasks]
  return ItemSet(
    tuple(task.name for task in tasks),
    tuple(item.id for item in rows),
    tuple(encoded),
    np.repeat(np.arange(len(tasks), dtype=np.int32), sizes),
    np.asarray([item.label for item in rows], np.int32),
    np.concatenate(flags),
    tuple(tasks),
    tuple(rows),
  )


def subset(items: ItemSet, positions: Sequence[int] | np.ndarray) -> ItemSet:
  """The items at the given positions, in that order."""
  at = np.asarray(positions, int)
  return dataclasses.replace(
    items,
    ids=tuple(items.ids[i] for i in at),
    encoded=tuple(items.encoded[i] for i in at),
    task=items.task[at],
    label=items.label[at],
    flags=items.flags[at],
    items=tuple(items.items[i] for i in at),
  )
