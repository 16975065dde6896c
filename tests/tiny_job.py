"""Runs the whole job on the tiny suite: python -m tests.tiny_job DIR WORKDIR.

DIR holds the suite as `suite` makes it; a third argument may give other
settings as JSON.
"""

import json
import pathlib
import sys

from automerge_jax import pipeline
from automerge_jax.tasks import sources
from tests import tiny_suite


def suite(folder: pathlib.Path) -> pathlib.Path:
  """Writes the suite, whose tasks are then known to this process."""
  sources.SOURCES.update(tiny_suite.SOURCES)
  return tiny_suite.write(folder)


def main(folder: str, workdir: str, other: str = '{}') -> None:
  sources.SOURCES.update(tiny_suite.SOURCES)
  changed = {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in json.loads(other).items()
  }
  settings = tiny_suite.settings(pathlib.Path(folder), **changed)
  pipeline.run(settings, pathlib.Path(workdir), 'python -m tests.tiny_job')


if __name__ == '__main__':
  main(*sys.argv[1:])
