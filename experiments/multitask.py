"""Fine-tunes one model on all tasks of a suite: a ceiling for its merges.

  python -m experiments.multitask --config=configs/encoder_suite.py \
    --workdir=runs/encoder_suite

Needs the base of `experiments.finetune`; writes WORKDIR/multitask, in as many
steps as the experts took together. A finished model is read back.
"""

import dataclasses
import pathlib
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from automerge_jax.tasks import (
  classification,
  experts,
  language_sources,
  multitask,
  suite,
)
from experiments import choices, finetune_language, startup


def run(config, workdir: str | pathlib.Path) -> dict[str, Any]:
  """Makes the model of `config`, or finds it; returns its report."""
  workdir = pathlib.Path(workdir)
  base = workdir / 'experts' / experts.BASE
  out = workdir / multitask.FOLDER
  if config.get('kind') == 'language':
    sizes = {name: task.examples for name, task in config.tasks.items()}
    tasks = {language_sources.make_task(n): sizes[n] for n in sizes}
    return multitask.make_language(out, base, tasks, language_options(config))
  how = config.train
  made = [suite.make_task(name, **task) for name, task in config.tasks.items()]
  texts = [t for t in made if isinstance(t, classification.Task)]
  if len(texts) < len(made):
    raise ValueError(
      f'tasks {list(config.tasks)} are not all of texts; one model for all is '
      'trained on texts only'
    )
  return multitask.make(
    out,
    base,
    texts,
    choices.finetuning(config),
    how.examples,
    shared_head=how.get('shared_head', False),
  )


def language_options(config):
  """The experts' options; their learning rates' mean over training items.

  Raises:
    ValueError: if experts differ in the number of epochs.
  """
  each = {n: finetune_language.options(config, n) for n in config.tasks}
  if len({options.epochs for options in each.values()}) > 1:
    raise ValueError(
      f'experts take {[o.epochs for o in each.values()]} epochs; one model '
      'for all needs one number'
    )
  sizes = {name: task.examples for name, task in config.tasks.items()}
  rate = sum(each[n].learning_rate * sizes[n] for n in sizes)
  first = next(iter(each.values()))
  return dataclasses.replace(first, learning_rate=rate / sum(sizes.values()))


def main(argv: list[str]) -> None:
  if len(argv) > 1:
    raise app.UsageError(f'unexpected arguments {argv[1:]}')
  startup.prepare()
  run(flags.FLAGS.config, flags.FLAGS.workdir)


if __name__ == '__main__':
  config_flags.DEFINE_config_file('config', None, 'The suite.')
  flags.DEFINE_string('workdir', None, 'Holds experts/.', required=True)
  flags.mark_flag_as_required('config')
  app.run(main)
