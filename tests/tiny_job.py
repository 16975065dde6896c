"""Runs the whole job on the tiny suite: python -m tests.tiny_job DIR WORKDIR.

DIR holds the suite as `tiny_suite.write` made it.
"""

import pathlib
import sys

from automerge_jax import pipeline
from automerge_jax.tasks import sources
from tests import tiny_suite


def main(folder: str, workdir: str) -> None:
  sources.SOURCES.update(tiny_suite.SOURCES)
  settings = tiny_suite.settings(pathlib.Path(folder))
  pipeline.run(settings, pathlib.Path(workdir), 'python -m tests.tiny_job')


if __name__ == '__main__':
  main(*sys.argv[1:])
