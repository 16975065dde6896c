"""Expert folders: a Hugging Face model folder with a classification head.

model.safetensors, config.json, tokenizer...  as the base has them
head.safetensors                              kernel [d, C], bias [C]
head.json                                     the task that it is for
train.json                                    how it was made; written last
"""

import json
import pathlib
import shutil
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from automerge_jax.io import assets, checkpoints
from automerge_jax.io import safetensors as weights
from automerge_jax.models import base
from automerge_jax.tasks import images
from automerge_jax.tasks.classification import Task
from automerge_jax.types import Family, Params

BASE = 'base'
HEAD = 'head.safetensors'
TASK = 'head.json'
REPORT = 'train.json'
WITH_HEAD = ('classification', 'images')  # kinds of tasks
HEADS = 'heads'  # of a merge: one folder a task, with HEAD and TASK


class Head(NamedTuple):
  """A task and its head.

  Attributes:
    task: what it classifies.
    kernel: float32 [d, C].
    bias: float32 [C].
  """

  task: Task | images.Task
  kernel: np.ndarray
  bias: np.ndarray


def write(
  folder: str | pathlib.Path,
  base_folder: str | pathlib.Path,
  family: Family,
  params: Params,
  head: Head,
  report: dict[str, Any],
) -> None:
  """Writes an expert, its report last: a folder with a report is whole.

  Args:
    folder: of the expert.
    base_folder: config, tokenizer and unread tensors are taken from it.
    family: of the base.
    params: fine-tuned trunk.
    head: fine-tuned head.
    report: JSON values.
  """
  folder, base_folder = pathlib.Path(folder), pathlib.Path(base_folder)
  folder.mkdir(parents=True, exist_ok=True)
  copy_companions(base_folder, folder)
  tensors = base.unpack(family.keys, params)
  kept = [name for name in weights.files(base_folder) if name in family.skip]
  tensors |= dict(weights.stream(base_folder, kept))
  weights.write(folder, tensors)
  write_head(folder, head)
  write_json(folder / REPORT, report)


def keep_base(
  base_folder: str | pathlib.Path, experts: str | pathlib.Path
) -> pathlib.Path:
  """Puts the base beside its experts, as `base`, so that recipes can name it.

  Weights are hard links where the file system allows, else copies; an ONNX file
  becomes a Hugging Face folder.
  """
  base_folder, folder = pathlib.Path(base_folder), pathlib.Path(experts) / BASE
  partial = folder.with_name(BASE + '.partial')
  if folder.is_dir():
    return folder
  kind, found = checkpoints.find(base_folder)
  if kind == 'onnx':
    from automerge_jax.io import onnx

    onnx.to_hugging_face(found, folder)
    return folder
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir(parents=True)
  copy_companions(base_folder, partial)
  if (base_folder / weights.INDEX).is_file():
    shutil.copyfile(base_folder / weights.INDEX, partial / weights.INDEX)
  for path in set(weights.files(base_folder).values()):
    try:
      (partial / path.name).hardlink_to(path)
    except OSError:
      shutil.copyfile(path, partial / path.name)
  partial.rename(folder)
  return folder


def copy_companions(base_folder: pathlib.Path, folder: pathlib.Path) -> None:
  """Copies config and tokenizer files, all that is no weight."""
  for path in sorted(base_folder.iterdir()):
    if path.is_file() and path.suffix in ('.json', '.txt', '.model'):
      if path.name not in (assets.MANIFEST, weights.INDEX, TASK, REPORT):
        shutil.copyfile(path, folder / path.name)


def write_head(folder: str | pathlib.Path, head: Head) -> None:
  """Writes `head.safetensors` and `head.json`."""
  folder = pathlib.Path(folder)
  weights.write(folder, {'kernel': head.kernel, 'bias': head.bias}, HEAD)
  task = {
    'task': head.task.name,
    'classes': list(head.task.classes),
    size(head.task): getattr(head.task, size(head.task)),
    'metric': head.task.metric,
  }
  if head.task.kind != Task.kind:
    task['kind'] = head.task.kind
  write_json(folder / TASK, task)


def read_head(folder: str | pathlib.Path) -> Head:
  """The head of an expert folder.

  Raises:
    FileNotFoundError: if a file of it is missing.
    ValueError: if head and task differ in the number of classes.
  """
  folder = pathlib.Path(folder)
  for name in (HEAD, TASK):
    if not (folder / name).is_file():
      raise FileNotFoundError(f'{folder} has no {name}; expected an expert')
  told = json.loads((folder / TASK).read_text())
  arrays = safetensors.numpy.load_file(folder / HEAD)
  kind = images.Task if told.get('kind') == images.Task.kind else Task
  task = kind(
    told['task'], tuple(told['classes']), told[size(kind)], told['metric']
  )
  if arrays['bias'].shape != (len(task.classes),):
    raise ValueError(
      f'{folder}: head has {arrays["bias"].shape[0]} classes, '
      f'{TASK} names {len(task.classes)}'
    )
  return Head(task, arrays['kernel'], arrays['bias'])


def size(task: Any) -> str:
  """The attribute of a task that tells how large its items are."""
  return 'image_size' if task.kind == images.Task.kind else 'max_tokens'


def heads_of(folders: Iterable[str | pathlib.Path]) -> dict[str, Head]:
  """Heads that experts bring along, by task.

  Raises:
    ValueError: if two experts bring different heads for one task.
  """
  found: dict[str, Head] = {}
  for folder in map(pathlib.Path, folders):
    if not (folder / TASK).is_file():
      continue
    head = read_head(folder)
    same = found.setdefault(head.task.name, head)
    if not np.array_equal(head.kernel, same.kernel):
      raise ValueError(
        f'{folder} has another head for the task {head.task.name!r} than an '
        'expert before it; keep one of them'
      )
  return found


def head_files(
  folders: Iterable[str | pathlib.Path],
) -> dict[str, pathlib.Path]:
  """Files of heads by their names in a merge's folder, of the last that has it.

  Experts have one head, merges one a task; others, such as the base, none.
  """
  files = {}
  for folder in map(pathlib.Path, folders):
    for place in (folder, *sorted((folder / HEADS).glob('*'))):
      if (place / TASK).is_file():
        name = read_head(place).task.name
        files |= {
          f'{HEADS}/{name}/{file}': place / file for file in (HEAD, TASK)
        }
  return files


def read_report(folder: str | pathlib.Path) -> dict[str, Any] | None:
  """How an expert was made, or None where there is no finished one."""
  path = pathlib.Path(folder) / REPORT
  return json.loads(path.read_text()) if path.is_file() else None


def check_finished(
  folder: str | pathlib.Path, names: list[str], command: str
) -> None:
  """Raises FileNotFoundError naming missing experts and how to make them."""
  folder = pathlib.Path(folder)
  missing = [n for n in names if not (folder / n / REPORT).is_file()]
  if missing:
    raise FileNotFoundError(
      f'no finished expert for {missing} in {folder}; make them with:\n'
      f'  {command}'
    )


def check_settings(
  folder: pathlib.Path, have: Mapping[str, Any], want: Mapping[str, Any]
) -> None:
  """Raises ValueError naming in what a finished model was made otherwise."""
  lines = [
    f'{key}: {have.get(key)!r}, asked for {want.get(key)!r}'
    for key in sorted(set(have) | set(want))
    if have.get(key) != want.get(key)
  ]
  if lines:
    raise ValueError(
      f'{folder} holds a model made with other settings; delete the folder '
      'or choose another workdir:\n  ' + '\n  '.join(lines)
    )


def write_json(path: pathlib.Path, values: Any) -> None:
  """Writes JSON, whole or not at all."""
  partial = path.with_name(path.name + '.partial')
  partial.write_text(json.dumps(values, indent=2) + '\n')
  partial.replace(path)
