"""The ledger: every candidate and every item score, durable, append-only.

SQLite in WAL mode. It is the truth of a search: what was proposed is committed
before it is scored, and read back, never recomputed, when a search continues.
No row holds a time, so two runs of one search have equal ledgers.
"""

import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from automerge_jax.search import failures, tables
from automerge_jax.tasks.itemset import ItemSet
from automerge_jax.types import TRUNCATED, UNPARSED

__all__ = ['TRUNCATED', 'UNPARSED', 'Candidate', 'Ledger', 'Scores']


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
    kind: of the failure, see `failures.kind`; None: by its reason.
  """

  score: np.ndarray | None
  log_likelihood: np.ndarray | None
  failure: str | None = None
  flags: np.ndarray | None = None
  kind: str | None = None

  @property
  def stopped(self) -> bool:
    """Whether a race stopped it before its last item."""
    return self.score is not None and bool(np.isnan(self.score).any())


class Ledger:
  """An open ledger file; use as a context manager.

  A setting names what was scored how (split, rung and a hash of the evaluation
  settings); its items are recorded once, a task's scores follow their order.
  """

  def __init__(self, path: str | pathlib.Path, read_only: bool = False):
    """Opens a ledger, or makes it.

    Args:
      path: of the file.
      read_only: never write, as for a run that another process may be at.

    Raises:
      FileNotFoundError: if it is only to be read and is not there.
      ValueError: if the file is no ledger, or has another version's tables.
    """
    self._db = tables.connect(pathlib.Path(path), read_only)
    self._started: set[tuple[str, str]] = set()  # attempts of this process

  def __enter__(self) -> 'Ledger':
    return self

  def __exit__(self, *error) -> None:
    self._db.close()

  def claim(
    self,
    identity: Mapping[str, Any],
    growing: Mapping[str, float] | None = None,
  ) -> None:
    """Records what this search is, or checks that it is still the same.

    Args:
      identity: JSON values that must never change.
      growing: numbers that may be raised, but never lowered again; each value
        is recorded. Without a bound: infinity.

    Raises:
      ValueError: naming every key in which the recorded search differs, with
        both values, and every number that was lowered.
    """
    wanted = {
      key: json.dumps(value, sort_keys=True) for key, value in identity.items()
    }
    growing = dict(growing or {})
    with tables.transaction(self._db):
      have = self._run('identity')
      wrong = [
        f'{key} = {have.get(key, "(nothing)")}, now it is '
        f'{wanted.get(key, "(nothing)")}'
        for key in sorted(set(have) | set(wanted))
        if have and have.get(key) != wanted.get(key)
      ]
      lowered = [
        f'{key} = {before[-1]:.15g}, now it is {value:.15g}, and may only be '
        'raised'
        for key, value in sorted(growing.items())
        if (before := self.grown(key)) and value < before[-1]
      ]
      if wrong or lowered:
        raise ValueError(
          f'the ledger was made with {"; ".join(wrong + lowered)}; restore '
          'this, or use another --workdir'
        )
      self._db.executemany(
        "INSERT OR IGNORE INTO run VALUES ('identity', ?, ?)", wanted.items()
      )
      self._db.executemany(
        'INSERT OR IGNORE INTO grown VALUES (?, ?)', growing.items()
      )

  def grown(self, key: str) -> list[float]:
    """Every value that a growing number had, ascending; the last one counts."""
    query = 'SELECT value FROM grown WHERE key = ? ORDER BY value'
    return [value for (value,) in self._db.execute(query, (key,))]

  def note(self, key: str, value: Any) -> Any:
    """Records what was measured once; gives what was recorded first.

    Args:
      key: what it is.
      value: a JSON value, not used if there is one already.
    """
    self._db.execute(
      "INSERT OR IGNORE INTO run VALUES ('note', ?, ?)",
      (key, json.dumps(value, sort_keys=True)),
    )
    return self.noted(key)

  def noted(self, key: str) -> Any:
    """What was recorded by `note`, None if nothing was."""
    text = self._run('note').get(key)
    return None if text is None else json.loads(text)

  def _run(self, kind: str) -> dict[str, str]:
    query = 'SELECT key, value FROM run WHERE kind = ?'
    return dict(self._db.execute(query, (kind,)))

  def look(self, recipe: str) -> int:
    """Counts the merges that were the final one on held-out items.

    To be called before the final scoring, so that none is looked at uncounted.

    Args:
      recipe: hash of the one that is scored now.

    Returns:
      Different ones so far, with this one.
    """
    self._db.execute(
      'INSERT OR IGNORE INTO finals (recipe) VALUES (?)', (recipe,)
    )
    return len(self.looks())

  def looks(self) -> list[str]:
    """Hashes of the merges that were the final one, in their order."""
    query = 'SELECT recipe FROM finals ORDER BY number'
    return [recipe for (recipe,) in self._db.execute(query)]

  def record_items(self, setting: str, items: ItemSet) -> None:
    """Records a setting's items; a task's scores follow their order.

    Raises:
      ValueError: if other items, or another order, are recorded.
    """
    wanted = _ids(items)
    with tables.transaction(self._db):
      self._db.executemany(
        'INSERT OR IGNORE INTO items VALUES (?, ?, ?)',
        [(setting, task, json.dumps(ids)) for task, ids in wanted.items()],
      )
      for task, have in self._items(setting).items():
        if have != wanted.get(task):
          raise ValueError(
            f'the ledger holds scores of other items of {task!r} in '
            f'{setting!r}: the data changed since it was made; use another '
            '--workdir'
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
      (
        generation,
        slot,
        c.origin,
        c.recipe,
        _floats(c.coefficients),
        None if c.asked is None else _floats(c.asked),
        None if c.predicted is None else float(c.predicted),
      )
      for slot, c in enumerate(candidates)
    ]
    with tables.transaction(self._db):
      self._db.executemany(
        'INSERT INTO candidates VALUES (?, ?, ?, ?, ?, ?, ?)', rows
      )

  def proposals(self, generation: int) -> list[Candidate]:
    """A generation's proposals by slot; empty if it was not proposed yet."""
    rows = self._db.execute(
      'SELECT origin, recipe, coefficients, asked, predicted FROM candidates '
      'WHERE generation = ? ORDER BY slot',
      (generation,),
    )
    return [
      Candidate(
        origin,
        recipe,
        np.frombuffer(coefficients, np.float32),
        None if asked is None else np.frombuffer(asked, np.float32),
        predicted,
      )
      for origin, recipe, coefficients, asked, predicted in rows
    ]

  def record(
    self,
    setting: str,
    tasks: Sequence[str],
    task: np.ndarray,
    scored: Mapping[str, Scores],
  ) -> None:
    """Commits item scores of several recipes in one setting, all or none.

    Args:
      setting: as in `record_items`.
      tasks: task names.
      task: index of each item's task, [n].
      scored: scores [n] by recipe hash.

    Raises:
      sqlite3.IntegrityError: if one has scores, or a failure for good.
    """
    with tables.transaction(self._db):
      for recipe, scores in scored.items():
        kinds = [kind for kind, _ in self.failed(recipe, setting)]
        attempt = 1 + sum(kind in failures.RETRIED for kind in kinds)
        self._db.executemany(
          'INSERT INTO scores VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)',
          [
            (recipe, setting, name, attempt, *_packed(scores, task == index))
            for index, name in enumerate(tasks)
          ],
        )
    self._started |= {(recipe, setting) for recipe in scored}

  def failed(self, recipe: str, setting: str) -> list[tuple[str, str]]:
    """Kind and reason of every failed attempt, in order."""
    query = (
      'SELECT DISTINCT attempt, kind, failure FROM scores WHERE recipe = ? '
      'AND setting = ? AND failure IS NOT NULL ORDER BY attempt'
    )
    rows = self._db.execute(query, (recipe, setting))
    return [(kind, reason) for _, kind, reason in rows]

  def scores(
    self, recipe: str, setting: str, tasks: Sequence[str], task: np.ndarray
  ) -> Scores | None:
    """Scores [n] of a recipe in a setting by the last attempt.

    None if there was no attempt, or if another one is due: the last one failed
    by a kind that is tried again, before this ledger was opened.
    """
    rows = {
      name: rest
      for name, *rest in self._db.execute(
        'SELECT task, score, log_likelihood, flags, kind, failure FROM scores '
        'WHERE recipe = ? AND setting = ? ORDER BY attempt',
        (recipe, setting),
      )
    }
    if not rows:
      return None
    score = np.full(len(task), np.nan, np.float32)
    likelihood = np.full(len(task), np.nan, np.float32)
    marks = np.zeros(len(task), np.uint8)
    for index, name in enumerate(tasks):
      metric, nats, flags, kind, failure = rows[name]
      if failure is not None:
        due = self._due(recipe, setting, kind)
        return None if due else Scores(None, None, failure, kind=kind)
      mine = task == index
      score[mine] = np.frombuffer(metric, np.float32)
      likelihood[mine] = np.frombuffer(nats, np.float32)
      if flags is not None:
        marks[mine] = np.frombuffer(flags, np.uint8)
    return Scores(score, likelihood, flags=marks if marks.any() else None)

  def _due(self, recipe: str, setting: str, kind: str) -> bool:
    """Whether what failed by this kind is to be tried again now."""
    return (
      kind in failures.RETRIED
      and (recipe, setting) not in self._started
      and len(self.failed(recipe, setting)) < failures.ATTEMPTS
    )


def _packed(scores: Scores, mine: np.ndarray) -> tuple:
  """One task's columns from `score` on."""
  if scores.failure is not None:
    kind = scores.kind or failures.kind(scores.failure)
    return None, None, None, kind, scores.failure
  flags = None
  if scores.flags is not None and scores.flags[mine].any():
    flags = np.asarray(scores.flags[mine], np.uint8).tobytes()
  return (
    _floats(np.asarray(scores.score)[mine]),
    _floats(np.asarray(scores.log_likelihood)[mine]),
    flags,
    None,
    None,
  )


def _ids(items: ItemSet) -> dict[str, list[str]]:
  return {
    task: [items.ids[i] for i in np.flatnonzero(items.task == t)]
    for t, task in enumerate(items.tasks)
  }


def _floats(values: np.ndarray) -> bytes:
  return np.asarray(values, np.float32).tobytes()
