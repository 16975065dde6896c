"""Fine-tunes the experts of a suite; finished ones are skipped.

  python -m experiments.finetune --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite
"""

import pathlib

from absl import app, flags, logging
from ml_collections import config_flags

from automerge_jax.io import assets
from automerge_jax.tasks import experts, pretrain, small_base, suite
from experiments import choices, finetune_language, startup

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'The suite.', lock_config=True
)
WORKDIR = flags.DEFINE_string(
  'workdir', None, 'Experts go to WORKDIR/experts.', required=True
)
flags.mark_flag_as_required('config')


def run(config, workdir: str | pathlib.Path) -> dict[str, dict]:
  """Makes every expert of `config`; returns their reports by task."""
  if config.get('kind') == 'language':
    return finetune_language.run(config, workdir)
  known = config.base in assets.ASSETS
  base_folder = assets.fetch(config.base) if known else config.base
  folder = pathlib.Path(workdir) / 'experts'
  if 'pretrain' in config:
    base_folder = _pretrain(config, base_folder, folder / experts.BASE)
  else:
    base_folder = experts.keep_base(base_folder, folder)
  how = config.train
  options = choices.finetuning(config)
  reports = {}
  for name, task in config.tasks.items():
    report = suite.make_expert(
      folder / name,
      base_folder,
      suite.make_task(name, **task),
      options,
      examples=how.examples,
      select=how.select,
      heldout=how.heldout,
      head_of=tuple(config.tasks) if how.get('shared_head', False) else (),
    )
    reports[name] = report
    logging.info(
      '%s: held-out accuracy %.3f (probed base %.3f, n=%d), %.0f s',
      name,
      report['expert']['heldout']['accuracy'],
      report['probed_base']['heldout']['accuracy'],
      report['expert']['heldout']['n'],
      report['environment']['seconds'],
    )
  return reports


def _pretrain(config, teacher, folder: pathlib.Path) -> pathlib.Path:
  """The base that a suite makes itself."""
  shape = dict(config.pretrain.shape)
  report = small_base.make(
    folder,
    teacher,
    small_base.Shape(**shape | {'sources': tuple(shape['sources'])}),
    pretrain.Options(seed=config.seed, **config.pretrain.options),
  )
  logging.info(
    'base: %.3f of the variance of the teacher left, %.0f s',
    report['unexplained'][-1],
    report['environment']['seconds'],
  )
  return folder


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  run(CONFIG.value, WORKDIR.value)


if __name__ == '__main__':
  app.run(main)
