"""Searches for the merge of a suite's experts.

  python -m experiments.search --config=configs/quickstart.py --workdir=DIR

A run that was killed continues when the same command is given again.
"""

import pathlib
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from automerge_jax import pipeline
from automerge_jax.tasks import experts
from experiments import choices, startup

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Suite and search.', lock_config=True
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where everything is written.', required=True
)
flags.mark_flag_as_required('config')


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  config, workdir = CONFIG.value, pathlib.Path(WORKDIR.value)
  if not isinstance(config.tasks, str):
    experts.check_finished(
      config.experts,
      list(config.tasks),
      'python -m experiments.finetune '
      + shlex.join(a for a in sys.argv[1:] if a.startswith('--config='))
      + f' --workdir={pathlib.Path(config.experts).parent}',
    )
  command = shlex.join(['python', '-m', 'experiments.search', *sys.argv[1:]])
  try:
    for settings, folder in choices.stages(config, workdir):
      result = pipeline.run(settings, folder, command)
      print(result['verdict'])
  except (KeyError, OSError, ValueError) as error:
    logging.debug('search', exc_info=True)
    message = error.args[0] if isinstance(error, KeyError) else error
    sys.exit(f'search: {message}')
  print(f'Report: {workdir / "report.html"}')


if __name__ == '__main__':
  app.run(main)
