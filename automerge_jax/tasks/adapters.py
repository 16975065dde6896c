"""LoRA adapters as fine-tuning leaves them: PEFT folders, and merged models."""

import json
import pathlib

import numpy as np

from automerge_jax.io import atomic, checkpoints, lora, safetensors, sharded
from automerge_jax.tasks import experts, language_finetune
from automerge_jax.tasks.language_finetune import Options
from automerge_jax.types import Family, Params


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
      with np.errstate(over='ignore'):  # told below
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


def write_merged(
  folder: pathlib.Path, base_folder: pathlib.Path, adapter: pathlib.Path
) -> None:
  """Writes the base with an adapter added, as `BASE+ADAPTER` reads.

  Replaces weights that are there, such as those of a run that was killed.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for path in folder.glob('*.safetensors*'):
    path.unlink()
  experts.copy_companions(base_folder, folder)
  # What a run that was killed has left is written again.
  (folder / safetensors.SINGLE).unlink(missing_ok=True)
  path = f'{base_folder}+{adapter}'
  with checkpoints.open_checkpoint(path) as source:
    infos = {name: source.info(name) for name in source.names()}
    with sharded.Writer(folder, infos, '5GB') as writer:
      for name in infos:
        writer.write(name, source.get(name))
