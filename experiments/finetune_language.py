"""Experts of a suite of language tasks; run through `experiments.finetune`."""

import pathlib

from absl import logging

from automerge_jax.io import assets, gguf
from automerge_jax.tasks import experts, language_experts, language_sources
from automerge_jax.tasks.language_finetune import Options

ADAPTERS = 'adapters'  # in the workdir, one folder a task


def run(config, workdir: str | pathlib.Path) -> dict[str, dict]:
  """Makes every expert of `config`; returns their reports by task."""
  workdir = pathlib.Path(workdir)
  folder = workdir / 'experts'
  base_folder = _keep_base(config.base, folder)
  reports = {}
  for name, task in config.tasks.items():
    report = language_experts.make_expert(
      folder / name,
      base_folder,
      language_sources.make_task(name),
      options(config, name),
      examples=task.examples,
      select=task.select,
      heldout=task.heldout,
      adapter=workdir / ADAPTERS / name,
      given=resolve(config.adapters) / name if config.adapters else None,
    )
    reports[name] = report
    logging.info(
      '%s: held-out accuracy %.3f (base %.3f, n=%d)',
      name,
      report['expert']['heldout']['accuracy'],
      report['base']['heldout']['accuracy'],
      report['expert']['heldout']['n'],
    )
  return reports


def options(config, name: str) -> Options:
  """How `config` says to make the expert of a task."""
  how, task = config.train, config.tasks[name]
  return Options(
    epochs=task.epochs,
    batch_size=how.batch_size,
    learning_rate=task.learning_rate,
    warmup=how.warmup,
    weight_decay=how.weight_decay,
    clip=how.clip,
    lengths=tuple(how.lengths),
    checkpoint_every=how.checkpoint_every,
    seed=config.seed,
    frozen=how.frozen,
    rank=how.rank,
    alpha=how.alpha,
  )


def resolve(path: str) -> pathlib.Path:
  """A path as it is, or below the project's root."""
  root = pathlib.Path(__file__).parents[1]
  given = pathlib.Path(path)
  return given if given.is_dir() else root / given


def _keep_base(base: str, folder: pathlib.Path) -> pathlib.Path:
  """The base beside its experts, as a Hugging Face folder."""
  known = base in assets.ASSETS
  path = assets.fetch(base) if known else pathlib.Path(base)
  files = sorted(path.glob('*.gguf'))
  if not files:
    return experts.keep_base(path, folder)
  if not (folder / experts.BASE).is_dir():
    gguf.to_hugging_face(files[0], folder / experts.BASE)
  return folder / experts.BASE
