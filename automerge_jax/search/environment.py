"""Where and how long: everything that may differ when a run is repeated."""

import datetime
import importlib.metadata
import pathlib
import platform
import resource
import sys
from typing import Any

import jax

_PACKAGES = ('jax', 'jaxlib', 'flax', 'evosax', 'optax', 'orbax-checkpoint')


def describe() -> dict[str, Any]:
  """Processor, versions and date, as results files hold them."""
  return {
    'date': datetime.date.today().isoformat(),
    'python': platform.python_version(),
    'processor': _processor(),
    'devices': [str(device) for device in jax.devices()],
    'versions': {
      name: importlib.metadata.version(name)
      for name in (*_PACKAGES, 'automerge_jax')
    },
  }


def peak_memory_mb() -> float:
  """Largest resident set of this process so far, MB."""
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  return round(peak / (2**20 if sys.platform == 'darwin' else 2**10), 1)


def _processor() -> str:
  info = pathlib.Path('/proc/cpuinfo')
  if info.is_file():
    lines = info.read_text().splitlines()
    names = [
      x.split(':')[1].strip() for x in lines if x.startswith('model name')
    ]
    if names:
      return f'{names[0]}, {len(names)} threads'
  return platform.processor() or platform.machine()
