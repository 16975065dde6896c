"""How long a newcomer waits: `make quickstart`, cold and warm.

  python -m experiments.bench.quickstart

Cold: a fresh clone of the committed tree, no virtual environment, an empty
cache. Warm: environment, cache and experts kept, the search's output deleted.
Writes results/quickstart.json; takes the time of both.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from automerge_jax.search import environment

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
_OUT = _PROJECT / 'results' / 'quickstart.json'


def timed(command: list[str], folder: pathlib.Path, cache: pathlib.Path):
  """Seconds of a command, which must succeed."""
  begin = time.perf_counter()
  subprocess.run(
    command,
    cwd=folder,
    env=os.environ | {'AUTOMERGE_CACHE': str(cache)},
    stdout=sys.stderr,
    check=True,
  )
  return round(time.perf_counter() - begin, 1)


def main() -> None:
  with tempfile.TemporaryDirectory() as name:
    clone, cache = pathlib.Path(name) / 'clone', pathlib.Path(name) / 'cache'
    subprocess.run(
      ['git', 'clone', '-q', str(_PROJECT), str(clone)], check=True
    )
    figures = {'quickstart_cold_s': timed(['make', 'quickstart'], clone, cache)}
    work = clone / 'runs' / 'quickstart'
    for path in work.iterdir():
      if path.name != 'experts':
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    figures['quickstart_warm_s'] = timed(['make', 'quickstart'], clone, cache)
    summary = json.loads((work / 'summary.json').read_text())
  figures['quickstart_peak_memory_mb'] = summary['environment'][
    'peak_memory_mb'
  ]
  results = {
    'command': 'python -m experiments.bench.quickstart',
    'environment': environment.describe()
    | {
      'phases_warm_s': summary['environment']['seconds'],
      'load_before': os.getloadavg()[0],
    },
    'figures': figures,
    'intervals': {},
    'limits': {},
    'seeds': [summary['seed']],
  }
  _OUT.write_text(json.dumps(results, indent=2) + '\n')
  print(json.dumps(results))


if __name__ == '__main__':
  main()
