"""Searches for the merge of a suite's experts, or what a file describes.

  python -m experiments.search --config=configs/quickstart.py --workdir=DIR
  python -m experiments.search --evolve=FILE.yml --workdir=DIR

FILE.yml is mergekit-evolve's, see docs/evolve.md; a config then says how to
search (configs/own_models.py by default). A run that was killed continues when
the same command is given again.
"""

import pathlib
import shlex
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from automerge_jax import pipeline
from automerge_jax.tasks import experts
from configs import own_models
from experiments import choices, evolution, startup

CONFIG = config_flags.DEFINE_config_file(
  'config', own_models.__file__, 'Suite and search.', lock_config=True
)
EVOLVE = flags.DEFINE_string('evolve', None, "A file of mergekit-evolve's.")
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Where everything is written.', required=True
)


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  stated = config_flags.get_override_values(flags.FLAGS['config'])
  default = flags.FLAGS['config'].using_default_value
  if EVOLVE.value is None and default and not stated:
    raise app.UsageError('give --config=FILE or --evolve=FILE')
  startup.prepare()
  config, workdir = CONFIG.value, pathlib.Path(WORKDIR.value)
  if EVOLVE.value is None and not isinstance(config.tasks, str):
    experts.check_finished(
      config.experts,
      list(config.tasks),
      'python -m experiments.finetune '
      + shlex.join(a for a in sys.argv[1:] if a.startswith('--config='))
      + f' --workdir={pathlib.Path(config.experts).parent}',
    )
  command = shlex.join(['python', '-m', 'experiments.search', *sys.argv[1:]])
  try:
    if EVOLVE.value is None:
      stages = choices.stages(config, workdir)
    else:
      if default and 'search.optimizer' not in stated:
        config.search.optimizer = 'cma_es'  # as mergekit-evolve
      made = evolution.settings(
        pathlib.Path(EVOLVE.value), config, workdir, tell=_tell, stated=stated
      )
      stages = [(made, workdir)]
    for settings, folder in stages:
      result = pipeline.run(settings, folder, command)
      print(result['verdict'])
  except (ImportError, KeyError, OSError, ValueError) as error:
    logging.debug('search', exc_info=True)
    message = error.args[0] if isinstance(error, KeyError) else error
    sys.exit(f'search: {message}')
  print(f'Report: {workdir / "report.html"}')


def _tell(line: str) -> None:
  print(f'evolve: {line}', file=sys.stderr)


if __name__ == '__main__':
  app.run(main)
