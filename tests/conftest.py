"""Settings of the test run, made before JAX is imported."""

import os
import pathlib
import signal
import threading

import hypothesis
import pytest

_CACHE = os.environ.get('AUTOMERGE_CACHE', '~/.cache/automerge_jax')
os.environ.setdefault(
  'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path(_CACHE).expanduser() / 'jax')
)
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
os.environ.setdefault('JAX_NUMPY_RANK_PROMOTION', 'raise')
os.environ.setdefault('JAX_PLATFORMS', 'cpu')

# The same examples in every run; `make oracle` draws new ones.
hypothesis.settings.register_profile('repeatable', derandomize=True)
hypothesis.settings.load_profile('repeatable')

if threading.current_thread() is threading.main_thread():
  # A background shell hands down that Ctrl-C is ignored; tests send it.
  signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
  """Folder of the tiny suite, whose tasks are known while a module runs."""
  from automerge_jax.tasks import sources
  from tests import tiny_suite

  with pytest.MonkeyPatch.context() as patch:
    for name, source in tiny_suite.SOURCES.items():
      patch.setitem(sources.SOURCES, name, source)
    yield tiny_suite.write(tmp_path_factory.mktemp('tiny'))
