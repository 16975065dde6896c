"""What the study of DF-Merge keeps of its runs: item scores, small as text.

Runs take hours and their work folders gigabytes; these files are in git, so
that the study goes on where it was left and its results can be made again.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from automerge_jax.io import checkpoints

_DIGITS = 12  # of a checkpoint's SHA-256


@dataclasses.dataclass(frozen=True)
class Kept:
  """One run.

  Attributes:
    models: the first digits of each checkpoint's SHA-256, by name.
    task: index of each held-out item's task, [n].
    scores: 0/1 scores of models on these items, by name, [n].
    told: what else the run found, as JSON has it.
  """

  models: Mapping[str, str]
  task: np.ndarray
  scores: Mapping[str, np.ndarray]
  told: Mapping[str, Any]


def kept(
  path: pathlib.Path,
  folders: Mapping[str, pathlib.Path],
  make: Callable[[Mapping[str, str]], Kept],
) -> Kept:
  """What stands in a file, or what is made and then written there.

  Args:
    path: of the file.
    folders: of the checkpoints that it is made of, by name.
    make: from these checkpoints' digits, by name, to a run.

  Raises:
    ValueError: if other files of the folder are of other checkpoints, before
      the run is made.
  """
  if not path.is_file():
    models = {
      name: checkpoints.fingerprint(folder)[:_DIGITS]
      for name, folder in folders.items()
    }
    _check(path, models)
    made = make(models)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dumps(made))
  return loads(path.read_text())


def dumps(run: Kept) -> str:
  """As JSON, a line an entry.

  Raises:
    ValueError: naming a model with scores that are neither 0 nor 1.
  """
  scores = {}
  for name, row in run.scores.items():
    if not np.isin(row, (0, 1)).all():
      raise ValueError(f'{name!r} has scores that are neither 0 nor 1')
    scores[name] = np.packbits(np.asarray(row, bool)).tobytes().hex()
  entries = {
    'models': run.models,
    'items': np.bincount(run.task).tolist(),
    'told': run.told,
    'scores': scores,
  }
  lines = [f'{json.dumps(k)}: {json.dumps(v)}' for k, v in entries.items()]
  return '{\n' + ',\n'.join(lines) + '\n}\n'


def loads(text: str) -> Kept:
  """The inverse of `dumps`; items come task by task."""
  entries = json.loads(text)
  task = np.repeat(np.arange(len(entries['items'])), entries['items'])
  scores = {
    name: np.unpackbits(
      np.frombuffer(bytes.fromhex(bits), np.uint8), count=len(task)
    ).astype(float)
    for name, bits in entries['scores'].items()
  }
  return Kept(entries['models'], task, scores, entries['told'])


def _check(path: pathlib.Path, models: Mapping[str, str]) -> None:
  for other in path.parent.glob('*.json'):
    have = json.loads(other.read_text()).get('models', models)
    differ = sorted(name for name in models if have.get(name) != models[name])
    if differ:
      raise ValueError(
        f'{other} is of other checkpoints of {differ} than {path.name} would '
        'be: they cannot be compared; make these checkpoints again as they '
        'were, or give another folder as --kept'
      )
