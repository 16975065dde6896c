"""Settings of the test run, made before JAX is imported."""

import os
import pathlib

_CACHE = os.environ.get('AUTOMERGE_CACHE', '~/.cache/automerge_jax')
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(_CACHE).expanduser() / 'jax')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('JAX_NUMPY_RANK_PROMOTION', 'raise')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')
