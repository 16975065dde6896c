"""Runs the whole job on the tiny suite: python -m tests.tiny_job DIR WORKDIR.

DIR holds the suite as `suite` makes it; a third argument may give other
settings as JSON.
"""

import json
import pathlib
import sys

from automerge_jax import pipeline
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import sources
from tests import tiny_suite


def suite(folder: pathlib.Path) -> pathlib.Path:
  """Writes the suite, whose tasks are then known to this process."""
  sources.SOURCES.update(tiny_suite.SOURCES)
  return tiny_suite.write(folder)


def settings(folder: pathlib.Path, other: dict) -> Settings:
  """Settings of the tiny suite with others, which JSON may have held."""
  changed = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in other.items()
  }
  return tiny_suite.settings(folder, **changed)


def main(folder: str, workdir: str, other: str = '{}') -> None:
  sources.SOURCES.update(tiny_suite.SOURCES)
  chosen = settings(pathlib.Path(folder), json.loads(other))
  pipeline.run(chosen, pathlib.Path(workdir), 'python -m tests.tiny_job')


if __name__ == '__main__':
  main(*sys.argv[1:])
