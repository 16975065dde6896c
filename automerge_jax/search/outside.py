"""Tasks that other programs score: a candidate is written, scored, removed."""

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from automerge_jax.io import safetensors
from automerge_jax.search import failures
from automerge_jax.search.ledger import Scores
from automerge_jax.tasks import experts, external
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import TRUNCATED, UNPARSED

_BITS = {'truncated': TRUNCATED, 'unparsed': UNPARSED}


def complete(
  items: ItemSet,
  scores: Scores,
  tensors: Callable[[], Mapping[str, np.ndarray]],
  base: pathlib.Path,
) -> Scores:
  """Adds the scores of external tasks to those of the others.

  A scorer that tells no log-likelihood has its score in its place.

  Args:
    items: what is scored.
    scores: of the items, those of external tasks empty.
    tensors: gives the model's stored tensors.
    base: folder of the base, whose config and tokenizer are the model's too.
  """
  mine = [
    (index, task)
    for index, task in enumerate(items.definitions)
    if task.kind == 'external'
  ]
  if not mine or scores.score is None or scores.log_likelihood is None:
    return scores
  metric, nats = scores.score.copy(), scores.log_likelihood.copy()
  flags = np.zeros(len(items), np.uint8)
  if scores.flags is not None:
    flags |= scores.flags
  with _written(tensors(), base) as folder:
    for index, task in mine:
      slots = np.flatnonzero(items.task == index)
      asked = [items.encoded[i] for i in slots]
      try:
        found = external.score(task, folder, asked)
      except external.ScorerError as error:
        return Scores(None, None, str(error), kind=failures.OUTSIDE)
      for slot, name in zip(slots, asked, strict=True):
        one = found[name]
        metric[slot] = one.score
        told = one.log_likelihood
        nats[slot] = one.score if told is None else told
        flags[slot] |= sum(_BITS[flag] for flag in one.flags)
  return Scores(metric, nats, flags=flags if flags.any() else None)


@contextlib.contextmanager
def _written(
  tensors: Mapping[str, np.ndarray], base: pathlib.Path
) -> Iterator[pathlib.Path]:
  """A Hugging Face folder for as long as it is needed."""
  with tempfile.TemporaryDirectory(prefix='automerge_candidate_') as scratch:
    folder = pathlib.Path(scratch)
    if base.is_dir():
      experts.copy_companions(base, folder)
    safetensors.write(folder, tensors)
    yield folder
