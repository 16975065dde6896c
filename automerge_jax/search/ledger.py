"""The ledger: every candidate and every item score, durable, append-only.

SQLite in WAL mode. It is the truth of a search: what was proposed is committed
before it is scored, and read back, never recomputed, when a search continues.
No row holds a time, so two runs of one search have equal ledgers.
"""

import contextlib
import json
import pathlib
import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import TRUNCATED, UNPARSED

__all__ = ['TRUNCATED', 'UNPARSED', 'Candidate', 'Ledger', 'Scores']

_SCHEMA = """
CREATE TABLE IF NOT EXISTS run (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS items (
  setting TEXT NOT NULL, task TEXT NOT NULL, ids TEXT NOT NULL,
  PRIMARY KEY (setting, task));
CREATE TABLE IF NOT EXISTS candidates (
  generation INTEGER NOT NULL, slot INTEGER NOT NULL, origin TEXT NOT NULL,
  recipe TEXT NOT NULL, coefficients BLOB NOT NULL,
  PRIMARY KEY (generation, slot));
CREATE TABLE IF NOT EXISTS scores (
  recipe TEXT NOT NULL, setting TEXT NOT NULL, task TEXT NOT NULL,
  score BLOB, log_likelihood BLOB, flags BLOB, failure TEXT,
  PRIMARY KEY (recipe, setting, task));
"""


class Candidate(NamedTuple):
  """A proposal.

  Attributes:
    origin: where it came from.
    recipe: its recipe's hash.
    coefficients: [D].
    asked: what the optimizer asked for, x [D] before it was brought into its
      canonical form; None for what no optimizer proposed.
    predicted: mean of the objective as the surrogate foresaw it, minus the
      incumbent's; None without a prediction.
  """

  origin: str
  recipe: str
  coefficients: np.ndarray
  asked: np.ndarray | None = None
  predicted: float | None = None


class Scores(NamedTuple):
  """Item scores [n] of one recipe in one setting, or why there are none.

  Items that a race did not get to are NaN.

  Attributes:
    score: what the tasks' metrics say, 1 and 0 for right and wrong.
    log_likelihood: of the right answers, nats.
    failure: why there are no scores, or None.
    flags: `TRUNCATED` and `UNPARSED` bits, uint8; None where all are 0.
  """

  score: np.ndarray | None
  log_likelihood: np.ndarray | None
  failure: str | None = None
  flags: np.ndarray | None = None

  @property
  def stopped(self) -> bool:
    """Whether a race stopped it before its last item."""
    return self.score is not None and bool(np.isnan(self.score).any())


class Ledger:
  """An open ledger file; use as a context manager.

  A setting names what was scored how (split, rung and a hash of the evaluation
  settings); its items are recorded once, a task's scores follow their order.
  """

  def __init__(self, path: str | pathlib.Path):
    self._db = sqlite3.connect(path, isolation_level=None)
    self._db.execute('PRAGMA journal_mode=WAL')
    self._db.execute('PRAGMA synchronous=FULL')
    self._db.executescript(_SCHEMA)

  def __enter__(self) -> 'Ledger':
    return self

  def __exit__(self, *error) -> None:
    self._db.close()

  def claim(self, identity: dict) -> None:
    """Records what this search is, or checks that it is still the same.

    Raises:
      ValueError: naming the keys in which the recorded search differs.
    """
    for key, value in identity.items():
      text = json.dumps(value, sort_keys=True)
      self._db.execute('INSERT OR IGNORE INTO run VALUES (?, ?)', (key, text))
      (have,) = self._db.execute(
        'SELECT value FROM run WHERE key = ?', (key,)
      ).fetchone()
      if have != text:
        raise ValueError(
          f'the ledger was made with {key} = {have}, now it is {text}; use '
          'another --workdir or restore the setting'
        )

  def record_items(self, setting: str, items: ItemSet) -> None:
    """Records a setting's items; a task's scores follow their order.

    Raises:
      ValueError: if other items, or another order, are recorded.
    """
    wanted = _ids(items)
    self._db.executemany(
      'INSERT OR IGNORE INTO items VALUES (?, ?, ?)',
      [(setting, task, json.dumps(ids)) for task, ids in wanted.items()],
    )
    for task, have in self._items(setting).items():
      if have != wanted.get(task):
        raise ValueError(
          f'the ledger holds scores of other items of {task!r} in {setting!r}: '
          'the data changed since it was made; use another --workdir'
        )

  def has_items(self, setting: str, items: ItemSet) -> bool:
    """Whether a setting is recorded with exactly these items."""
    return self._items(setting) == _ids(items)

  def _items(self, setting: str) -> dict[str, list[str]]:
    rows = self._db.execute(
      'SELECT task, ids FROM items WHERE setting = ?', (setting,)
    )
    return {task: json.loads(ids) for task, ids in rows}

  def propose(self, generation: int, candidates: Sequence[Candidate]) -> None:
    """Commits a generation's proposals, all or none."""
    rows = [
      (generation, slot, c.origin, c.recipe, _floats(c.coefficients))
      for slot, c in enumerate(candidates)
    ]
    with _transaction(self._db):
      self._db.executemany(
        'INSERT INTO candidates VALUES (?, ?, ?, ?, ?)', rows
      )

  def proposals(self, generation: int) -> list[Candidate]:
    """A generation's proposals by slot; empty if it was not proposed yet."""
    rows = self._db.execute(
      'SELECT origin, recipe, coefficients FROM candidates '
      'WHERE generation = ? ORDER BY slot',
      (generation,),
    )
    return [
      Candidate(origin, recipe, np.frombuffer(blob, np.float32))
      for origin, recipe, blob in rows
    ]

  def record(
    self,
    setting: str,
    tasks: Sequence[str],
    task: np.ndarray,
    scored: dict[str, Scores],
  ) -> None:
    """Commits item scores of several recipes in one setting, all or none.

    Args:
      setting: as in `record_items`.
      tasks: task names.
      task: index of each item's task, [n].
      scored: scores [n] by recipe hash.
    """
    rows = []
    for recipe, scores in scored.items():
      for index, name in enumerate(tasks):
        mine = task == index
        score = likelihood = flags = None
        if scores.failure is None:
          score = _floats(np.asarray(scores.score)[mine])
          likelihood = _floats(np.asarray(scores.log_likelihood)[mine])
          if scores.flags is not None and scores.flags[mine].any():
            flags = np.asarray(scores.flags[mine], np.uint8).tobytes()
        rows.append(
          (recipe, setting, name, score, likelihood, flags, scores.failure)
        )
    with _transaction(self._db):
      self._db.executemany(
        'INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)', rows
      )

  def scores(
    self, recipe: str, setting: str, tasks: Sequence[str], task: np.ndarray
  ) -> Scores | None:
    """Recorded scores [n] of a recipe in a setting; None if there are none."""
    rows = {
      name: rest
      for name, *rest in self._db.execute(
        'SELECT task, score, log_likelihood, flags, failure FROM scores '
        'WHERE recipe = ? AND setting = ?',
        (recipe, setting),
      )
    }
    if not rows:
      return None
    score = np.full(len(task), np.nan, np.float32)
    likelihood = np.full(len(task), np.nan, np.float32)
    marks = np.zeros(len(task), np.uint8)
    for index, name in enumerate(tasks):
      metric, nats, flags, failure = rows[name]
      if failure is not None:
        return Scores(None, None, failure)
      mine = task == index
      score[mine] = np.frombuffer(metric, np.float32)
      likelihood[mine] = np.frombuffer(nats, np.float32)
      if flags is not None:
        marks[mine] = np.frombuffer(flags, np.uint8)
    return Scores(score, likelihood, flags=marks if marks.any() else None)


def _ids(items: ItemSet) -> dict[str, list[str]]:
  return {
    task: [items.ids[i] for i in np.flatnonzero(items.task == t)]
    for t, task in enumerate(items.tasks)
  }


def _floats(values: np.ndarray) -> bytes:
  return np.asarray(values, np.float32).tobytes()


@contextlib.contextmanager
def _transaction(db: sqlite3.Connection):
  db.execute('BEGIN IMMEDIATE')
  try:
    yield
  except BaseException:
    db.execute('ROLLBACK')
    raise
  db.execute('COMMIT')
