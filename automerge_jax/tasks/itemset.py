"""Items of several tasks as arrays, made once before anything is scored."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import tokenizers as hf_tokenizers

from automerge_jax.io import tokenizers
from automerge_jax.tasks.classification import Task
from automerge_jax.tasks.partition import Item


@dataclasses.dataclass(frozen=True)
class ItemSet:
  """Tokenised, labelled items of several tasks.

  Attributes:
    tasks: task names, in the order that `task` indexes.
    ids: content id of each item, [n].
    tokens: token ids of each item, [n].
    task: index of each item's task, int32 [n].
    label: class index of each item, int32 [n].
  """

  tasks: tuple[str, ...]
  ids: tuple[str, ...]
  tokens: tuple[tuple[int, ...], ...]
  task: np.ndarray
  label: np.ndarray

  def __len__(self) -> int:
    return len(self.ids)


def build(
  tasks: Sequence[Task],
  items: Mapping[str, Sequence[Item]],
  tokenizer: hf_tokenizers.Tokenizer,
) -> ItemSet:
  """Tokenises the items of each task, in the order of `tasks`."""
  ids: list[str] = []
  tokens: list[tuple[int, ...]] = []
  index: list[int] = []
  label: list[int] = []
  for i, task in enumerate(tasks):
    rows = items[task.name]
    ids += [item.id for item in rows]
    texts = [item.text for item in rows]
    tokens += map(tuple, tokenizers.encode(tokenizer, texts, task.max_tokens))
    index += [i] * len(rows)
    label += [item.label for item in rows]
  return ItemSet(
    tuple(task.name for task in tasks),
    tuple(ids),
    tuple(tokens),
    np.asarray(index, np.int32),
    np.asarray(label, np.int32),
  )


def subset(items: ItemSet, positions: Sequence[int] | np.ndarray) -> ItemSet:
  """The items at the given positions, in that order."""
  return ItemSet(
    items.tasks,
    tuple(items.ids[i] for i in positions),
    tuple(items.tokens[i] for i in positions),
    items.task[np.asarray(positions)],
    items.label[np.asarray(positions)],
  )
