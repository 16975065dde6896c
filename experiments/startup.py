"""What every entry point sets before it computes."""

import logging
import pathlib

import jax
from absl import logging as absl_logging

from automerge_jax.io import assets

_PROJECT = pathlib.Path(__file__).resolve().parent.parent


def prepare() -> None:
  """Quiet logs and a compilation cache."""
  quiet_libraries()
  compilation_cache()


def compilation_cache() -> None:
  """Keeps compiled functions in the cache folder, for the next process."""
  folder = assets.cache_folder() / 'jax'
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.05)


def quiet_libraries() -> None:
  """Lets only this project's own informative lines through to the log."""
  ours = tuple(str(_PROJECT / n) for n in ('automerge_jax', 'experiments'))

  def keep(record) -> bool:
    return record.levelno >= logging.WARNING or (
      record.pathname.startswith(ours)
    )

  absl_logging.get_absl_handler().addFilter(keep)
