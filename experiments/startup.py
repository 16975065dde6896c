"""What every entry point sets before it computes."""

import jax

from automerge_jax.io import assets


def compilation_cache() -> None:
  """Keeps compiled functions in the cache folder, for the next process."""
  folder = assets.cache_folder() / 'jax'
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
