"""From config files to the library's frozen settings."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from automerge_jax import delivery
from automerge_jax.search.settings import Settings
from automerge_jax.tasks import experts, finetune

FUSION = 'fusion'  # what the first of two searches made, as an expert


def stages(
  config, workdir: pathlib.Path
) -> list[tuple[Settings, pathlib.Path]]:
  """Searches to run in turn, each with its workdir.

  With a part `then`, the merge that `search` finds is one more expert of a
  second search.
  """
  first = settings(config)
  if 'then' not in config:
    return [(first, workdir)]
  below = workdir / FUSION
  experts = {**first.experts, FUSION: below / delivery.EXPORTED}
  second = dataclasses.replace(
    settings(config, 'then'), experts=experts, derived=(FUSION,)
  )
  return [(first, below), (second, workdir)]


def settings(config, part: str = 'search') -> Settings:
  """Settings of one search of a config."""
  how = options(config, part)
  if isinstance(config.tasks, str):
    base, folders = config.base, named(_listed(config.experts))
    tasks = _listed(config.tasks)
  else:  # a suite: experts are named like tasks, the base is beside them
    base = pathlib.Path(config.experts) / experts.BASE
    folders = {t: pathlib.Path(config.experts) / t for t in config.tasks}
    tasks = tuple(config.tasks)
  return Settings(
    tasks=tasks,
    base=pathlib.Path(base),
    experts=folders,
    seed=config.seed,
    **how,
  )


def options(config, part: str = 'search') -> dict[str, Any]:
  """How to search, as arguments of `Settings`."""
  how: dict[str, Any] = config[part].to_dict()
  how = {k: tuple(v) if isinstance(v, list) else v for k, v in how.items()}
  how['batch_size'] = how['batch_size'] or None
  return how


def finetuning(config) -> finetune.Options:
  """How the classifiers of a suite are fine-tuned."""
  how = config.train
  return finetune.Options(
    epochs=how.epochs,
    batch_size=how.batch_size,
    learning_rate=how.learning_rate,
    warmup=how.warmup,
    weight_decay=how.weight_decay,
    clip=how.clip,
    lengths=tuple(how.lengths),
    checkpoint_every=how.checkpoint_every,
    seed=config.seed,
    train_head=not how.get('shared_head', False),
  )


def _listed(text: str) -> tuple[str, ...]:
  """The entries of a list with commas."""
  return tuple(part.strip() for part in text.split(',') if part.strip())


def named(paths: Sequence[str]) -> dict[str, pathlib.Path]:
  """Checkpoints by the last part of their paths, numbered where it repeats."""
  named: dict[str, pathlib.Path] = {}
  for text in paths:
    stem = pathlib.Path(text).name
    if stem == experts.BASE:
      stem = f'{stem}-expert'
    name, number = stem, 2
    while name in named:
      name, number = f'{stem}-{number}', number + 1
    named[name] = pathlib.Path(text)
  return named
