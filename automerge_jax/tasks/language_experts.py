"""Making language experts: base and prompts in, adapters and models out.

An adapter folder is PEFT's (`adapter_config.json`, `adapter_model.safetensors`
in float16) with `train.json`, how it was made and what it scores. An expert is
the whole model, the base with that adapter added, and the same `train.json`.
"""

import dataclasses
import hashlib
import json
import pathlib
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging

from automerge_jax.io import safetensors, tokenizers
from automerge_jax.models import base as models
from automerge_jax.models import registry
from automerge_jax.search import evaluate
from automerge_jax.tasks import (
  adapters,
  experts,
  itemset,
  kinds,
  language_finetune,
  sealed,
  splits,
)
from automerge_jax.tasks.language_finetune import Example, Options
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED, UNPARSED

CHECKPOINTS = 'checkpoints'
_DECIDE = (  # options that an expert depends on
  'epochs',
  'batch_size',
  'learning_rate',
  'warmup',
  'weight_decay',
  'clip',
  'lengths',
  'seed',
  'frozen',
  'rank',
  'alpha',
)


def make_expert(
  folder: str | pathlib.Path,
  base_folder: str | pathlib.Path,
  task: Any,
  options: Options,
  *,
  examples: int,
  select: int,
  heldout: int,
  adapter: str | pathlib.Path,
  given: str | pathlib.Path | None = None,
  progress: bool = True,
) -> dict[str, Any]:
  """Fine-tunes one expert, or finds it finished.

  A run that was killed continues at its newest resume point.

  Args:
    folder: of the expert.
    base_folder: Hugging Face folder of the base.
    task: what it is for.
    options: how.
    examples: training items.
    select: items to judge the options by.
    heldout: items of the reported accuracy.
    adapter: folder for the adapter.
    given: folder of an adapter that was made before; taken instead of training
      where it was made with the same settings.
    progress: whether to show a progress bar.

  Returns:
    The report, as in `train.json`.

  Raises:
    ValueError: if a finished expert was made with other settings.
  """
  folder, base_folder = pathlib.Path(folder), pathlib.Path(base_folder)
  adapter, given = pathlib.Path(adapter), pathlib.Path(given) if given else None
  items = splits.train_items(task.name, examples)
  settings = settings_of(
    safetensors.fingerprint(base_folder),
    task,
    items,
    options,
    examples=examples,
    select=select,
    heldout=heldout,
  )
  report = experts.read_report(folder)
  if report is not None:
    check_settings(folder, report['settings'], settings)
    return report
  report = _made_before(adapter, given, settings) if options.rank else None
  if report is None:
    encoded = encode(tokenizers.load(base_folder), task, items)
    report = train(
      folder,
      base_folder,
      adapter,
      encoded,
      options,
      settings,
      task.name if progress else None,
    )
  if options.rank:
    adapters.write_merged(folder, base_folder, adapter)
  if 'expert' not in report:
    report |= judge(
      {'expert': folder, 'base': base_folder},
      task,
      {
        'select': sealed.select_items(task.name, select),
        'heldout': sealed.heldout_items(task.name, heldout),
      },
    )
    if options.rank:
      experts.write_json(adapter / experts.REPORT, report)
  experts.write_json(folder / experts.REPORT, report)
  shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
  return report


def _made_before(
  adapter: pathlib.Path, given: pathlib.Path | None, settings: Mapping[str, Any]
) -> dict[str, Any] | None:
  """Report of an adapter of these settings, which is then at `adapter`."""
  report = experts.read_report(adapter)
  if report is not None and report['settings'] == settings:
    return report
  report = experts.read_report(given) if given else None
  if report is None:
    return None
  lines = _differences(report['settings'], settings)
  if lines:
    logging.info('%s: %s; training anew', given, '; '.join(lines))
    return None
  shutil.copytree(str(given), adapter, dirs_exist_ok=True)
  return report


def train(
  folder: pathlib.Path,
  base_folder: pathlib.Path,
  adapter: pathlib.Path,
  encoded: Sequence[Example],
  options: Options,
  settings: Mapping[str, Any],
  progress: str | None,
) -> dict[str, Any]:
  """Writes what training gives; returns the report, still without scores.

  An adapter goes to `adapter` with this report; without a rank the whole model
  goes to `folder`.

  Args:
    folder: of the expert, and of resume points.
    base_folder: Hugging Face folder of the base.
    adapter: folder for the adapter.
    encoded: training items.
    options: how.
    settings: what the report says about them.
    progress: title of the progress bar, or None for none.
  """
  begin = time.perf_counter()
  model = registry.load(base_folder)
  trained = language_finetune.train(
    model.family,
    model.params,
    encoded,
    options,
    checkpoints=folder / CHECKPOINTS,
    progress=progress,
  )
  report = {
    'settings': dict(settings),
    'environment': {
      'seconds': round(time.perf_counter() - begin, 1),  # of training
      'jax': jax.__version__,
      'python': platform.python_version(),
    },
  }
  if options.rank:
    shutil.rmtree(adapter, ignore_errors=True)
    adapters.write_adapter(adapter, model.family, trained, options)
    experts.write_json(adapter / experts.REPORT, report)
    return report
  first = language_finetune.first_layer(model.family, options)
  layers = jax.tree.map(
    lambda low, high: np.concatenate([low[:first], high]),
    model.params['layers'],
    trained,
  )
  folder.mkdir(parents=True, exist_ok=True)
  experts.copy_companions(base_folder, folder)
  params = dict(model.params, layers=layers)
  safetensors.write(folder, models.unpack(model.family.keys, params))
  return report


def settings_of(
  base: str, task: Any, items: Sequence[Item], options: Options, **sizes: int
) -> dict[str, Any]:
  """All that an expert and its scores depend on, as `train.json` tells it.

  Args:
    base: fingerprint of the base.
    task: what it is for.
    items: that it is trained on.
    options: how.
    **sizes: items of each split.
  """
  ids = '\n'.join(item.id for item in items)
  settings = {
    'base': base,
    'task': dataclasses.asdict(task),
    'items': hashlib.sha256(ids.encode()).hexdigest(),
    **sizes,
    **{name: getattr(options, name) for name in _DECIDE},
  }
  return json.loads(json.dumps(settings))  # as it is read back


def encode(tokenizer: Any, task: Any, items: Sequence[Item]) -> list[Example]:
  """Prompts and right answers as token ids.

  What the model writes itself ends with the first of the task's stop strings.

  Args:
    tokenizer: of the base.
    task: of the kind choice or generation.
    items: of it.
  """
  answers = [
    item.choices[item.label]
    if item.choices
    else task.delimiter + item.answers[0] + task.stop[0]
    for item in items
  ]
  prompts = tokenizer.encode_batch([item.text for item in items])
  ends = tokenizer.encode_batch(answers, add_special_tokens=False)
  return [
    Example((*prompt.ids, *end.ids), len(prompt.ids))
    for prompt, end in zip(prompts, ends, strict=True)
  ]


def judge(
  folders: Mapping[str, pathlib.Path],
  task: Any,
  items: Mapping[str, Sequence[Item]],
) -> dict[str, dict[str, Any]]:
  """What models of one shape score: `{model: {split: summary}}`.

  Args:
    folders: Hugging Face folders by name.
    task: of the kind choice or generation.
    items: of each split.
  """
  family = registry.load(next(iter(folders.values()))).family
  scorer, found = evaluate.scorer(family), {}
  built = {
    split: itemset.build(
      [task], {task.name: rows}, family, next(iter(folders.values()))
    )
    for split, rows in items.items()
  }
  data = {split: kinds.arrays(rows) for split, rows in built.items()}
  for name, folder in folders.items():
    params = jax.tree.map(jnp.asarray, registry.load(folder).params)
    found[name] = {}
    for split, rows in built.items():
      scores = jax.device_get(scorer(params, {}, data[split], len(rows)))
      right, flags = kinds.finish(rows, scores)
      found[name][split] = {
        'accuracy': round(float(right.mean()), 6),
        'log_likelihood': round(float(scores.log_likelihood.mean()), 6),
        'truncated': int(np.sum(flags & TRUNCATED > 0)),
        'unparsed': int(np.sum(flags & UNPARSED > 0)),
        'n': len(rows),
      }
  return found


def check_settings(
  folder: pathlib.Path, have: Mapping[str, Any], want: Mapping[str, Any]
) -> None:
  """Raises ValueError naming the settings that a finished expert has not."""
  lines = _differences(have, want)
  if lines:
    raise ValueError(
      f'{folder} holds an expert made with other settings; delete the folder '
      'or choose another workdir:\n  ' + '\n  '.join(lines)
    )


def _differences(have: Mapping[str, Any], want: Mapping[str, Any]) -> list[str]:
  return [
    f'{key}: {have.get(key)!r}, asked for {want.get(key)!r}'
    for key in sorted(set(have) | set(want))
    if have.get(key) != want.get(key)
  ]
