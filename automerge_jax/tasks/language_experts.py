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

from automerge_jax.io import (
  atomic,
  checkpoints,
  lora,
  safetensors,
  sharded,
  tokenizers,
)
from automerge_jax.models import base as models
from automerge_jax.models import registry
from automerge_jax.search import evaluate
from automerge_jax.tasks import (
  experts,
  itemset,
  kinds,
  language_finetune,
  sealed,
  splits,
)
from automerge_jax.tasks.language_finetune import Example, Options
from automerge_jax.tasks.partition import Item
from automerge_jax.types import TRUNCATED, UNPARSED, Family, Params

CHECKPOINTS = 'checkpoints'


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
  adapter = pathlib.Path(adapter)
  items = splits.train_items(task.name, examples)
  settings = {
    'base': safetensors.fingerprint(base_folder),
    'task': task.name,
    'metric': task.metric,
    'max_tokens': task.max_tokens,
    'items': _digest(items),
    'examples': examples,
    'select': select,
    'heldout': heldout,
    **_plain(options),
  }
  report = experts.read_report(folder)
  if report is not None:
    check_settings(folder, report['settings'], settings)
    return report
  report = experts.read_report(given) if given and options.rank else None
  if report is not None and report['settings'] == settings:
    shutil.copytree(given, adapter, dirs_exist_ok=True)
    _write_merged(folder, base_folder, adapter)
    experts.write_json(folder / experts.REPORT, report)
    return report
  begin = time.perf_counter()
  model = registry.load(base_folder)
  trained = language_finetune.train(
    model.family,
    model.params,
    encode(tokenizers.load(base_folder), task, items),
    options,
    checkpoints=folder / CHECKPOINTS,
    progress=task.name if progress else None,
  )
  seconds = round(time.perf_counter() - begin, 1)
  if options.rank:
    shutil.rmtree(adapter, ignore_errors=True)
    write_adapter(adapter, model.family, trained, options)
    _write_merged(folder, base_folder, adapter)
  else:
    first = language_finetune.first_layer(model.family, options)
    params = dict(
      model.params,
      layers=jax.tree.map(
        lambda low, high: np.concatenate([low[:first], high]),
        model.params['layers'],
        trained,
      ),
    )
    folder.mkdir(parents=True, exist_ok=True)
    experts.copy_companions(base_folder, folder)
    safetensors.write(folder, models.unpack(model.family.keys, params))
  report = {
    'settings': settings,
    **judge(
      {'expert': folder, 'base': base_folder},
      task,
      {
        'select': sealed.select_items(task.name, select),
        'heldout': sealed.heldout_items(task.name, heldout),
      },
    ),
    'environment': {
      'seconds': seconds,  # of training
      'jax': jax.__version__,
      'python': platform.python_version(),
    },
  }
  if options.rank:
    experts.write_json(adapter / experts.REPORT, report)
  experts.write_json(folder / experts.REPORT, report)
  shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
  return report


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


def write_adapter(
  folder: str | pathlib.Path,
  family: Family,
  adapter: Params,
  options: Options,
) -> None:
  """Writes a PEFT adapter of float16 factors, whole or not at all.

  Args:
    folder: must not exist.
    family: of the base.
    adapter: `{module: {'a': [n, in, r], 'b': [n, r, out]}}` of the upper
      layers.
    options: that it was trained with.

  Raises:
    ValueError: naming a factor that float16 does not hold.
  """
  first = language_finetune.first_layer(family, options)
  tensors = {}
  for key in family.keys:
    module = key.path.removeprefix('layers/').removesuffix('/kernel')
    if key.layer is None or key.layer < first or module not in adapter:
      continue
    if not key.path.endswith('/kernel'):
      continue
    for part in 'ab':
      name = f'{key.stored.removesuffix(".weight")}.lora_{part.upper()}.weight'
      half = adapter[module][part][key.layer - first].T.astype(np.float16)
      if not np.isfinite(half).all():
        raise ValueError(
          f'{name} does not fit into float16; train with a lower learning rate '
          f'({options.learning_rate})'
        )
      tensors[lora.PREFIX + name] = np.ascontiguousarray(half)
  modules = {name.split('.')[-3] for name in tensors}
  config = {
    'peft_type': 'LORA',
    'task_type': 'CAUSAL_LM',
    'base_model_name_or_path': experts.BASE,
    'r': options.rank,
    'lora_alpha': options.alpha,
    'lora_dropout': 0.0,
    'bias': 'none',
    'target_modules': sorted(modules),
    'layers_to_transform': list(range(first, family.num_layers)),
    'fan_in_fan_out': False,
    'use_rslora': False,
    'inference_mode': True,
  }
  with atomic.folder(folder) as partial:
    safetensors.write(partial, tensors, lora.WEIGHTS)
    (partial / lora.CONFIG).write_text(json.dumps(config, indent=2) + '\n')


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
  lines = [
    f'{key}: {have.get(key)!r}, asked for {want.get(key)!r}'
    for key in sorted(set(have) | set(want))
    if have.get(key) != want.get(key)
  ]
  if lines:
    raise ValueError(
      f'{folder} holds an expert made with other settings; delete the folder '
      'or choose another workdir:\n  ' + '\n  '.join(lines)
    )


def _write_merged(
  folder: pathlib.Path, base_folder: pathlib.Path, adapter: pathlib.Path
) -> None:
  """The base with an adapter added, as `BASE+ADAPTER` reads."""
  folder.mkdir(parents=True, exist_ok=True)
  experts.copy_companions(base_folder, folder)
  path = f'{base_folder}+{adapter}'
  with checkpoints.open_checkpoint(path) as source:
    infos = {name: source.info(name) for name in source.names()}
    with sharded.Writer(folder, infos, '5GB') as writer:
      for name in infos:
        writer.write(name, source.get(name))


def _plain(options: Options) -> dict[str, Any]:
  values = dataclasses.asdict(options) | {'lengths': list(options.lengths)}
  return {k: v for k, v in values.items() if k != 'checkpoint_every'}


def _digest(items: Sequence[Item]) -> str:
  ids = '\n'.join(item.id for item in items)
  return hashlib.sha256(ids.encode()).hexdigest()
