"""The ledger's tables: made whole, checked by version, written all or none."""

import contextlib
import pathlib
import sqlite3
from collections.abc import Iterator

VERSION = 2  # raised whenever the tables change
_SCHEMA = (
  """CREATE TABLE run (
  kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
  PRIMARY KEY (kind, key))""",
  """CREATE TABLE grown (
  key TEXT NOT NULL, value REAL NOT NULL, PRIMARY KEY (key, value))""",
  """CREATE TABLE items (
  setting TEXT NOT NULL, task TEXT NOT NULL, ids TEXT NOT NULL,
  PRIMARY KEY (setting, task))""",
  """CREATE TABLE candidates (
  generation INTEGER NOT NULL, slot INTEGER NOT NULL, origin TEXT NOT NULL,
  recipe TEXT NOT NULL, coefficients BLOB NOT NULL, asked BLOB, predicted REAL,
  PRIMARY KEY (generation, slot))""",
  """CREATE TABLE scores (
  recipe TEXT NOT NULL, setting TEXT NOT NULL, task TEXT NOT NULL,
  attempt INTEGER NOT NULL, score BLOB, log_likelihood BLOB, flags BLOB,
  kind TEXT, failure TEXT, PRIMARY KEY (recipe, setting, task, attempt))""",
  """CREATE TABLE finals (
  number INTEGER PRIMARY KEY, recipe TEXT NOT NULL UNIQUE)""",
)


def connect(path: pathlib.Path, read_only: bool) -> sqlite3.Connection:
  """Opens a ledger file, or makes one; see `Ledger` for what is raised."""
  if read_only and not path.is_file():
    raise FileNotFoundError(f'{path} is not there; give the workdir of a run')
  where = path.absolute().as_uri() + ('?mode=ro' if read_only else '')
  db = sqlite3.connect(where, isolation_level=None, uri=True)
  try:
    if not read_only:
      db.execute('PRAGMA journal_mode=WAL')
      db.execute('PRAGMA synchronous=FULL')
      if not _count(db):
        _make(db)
    _check(db, path)
  except BaseException as error:
    db.close()
    if type(error) is sqlite3.DatabaseError:  # not one of its subclasses
      raise ValueError(f'{path} is no ledger: {error}') from error
    raise
  return db


@contextlib.contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
  """All of what is written within, or nothing."""
  db.execute('BEGIN IMMEDIATE')
  try:
    yield
  except BaseException:
    db.execute('ROLLBACK')
    raise
  db.execute('COMMIT')


def _make(db: sqlite3.Connection) -> None:
  with transaction(db):
    if not _count(db):  # no other process was faster
      for statement in _SCHEMA:
        db.execute(statement)
      db.execute(f'PRAGMA user_version={VERSION}')


def _check(db: sqlite3.Connection, path: pathlib.Path) -> None:
  (version,) = db.execute('PRAGMA user_version').fetchone()
  if not _count(db):
    raise ValueError(f'{path} holds nothing yet; start that run first')
  if version != VERSION:
    raise ValueError(
      f'{path} has tables of version {version}, expected {VERSION}; use '
      'another --workdir, or the version of this program that made it'
    )


def _count(db: sqlite3.Connection) -> int:
  return db.execute('SELECT count(*) FROM sqlite_master').fetchone()[0]
