"""Image classification: images resized, normalised and in equal chunks."""

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from automerge_jax.tasks.partition import Item
from automerge_jax.types import Family, Items

PREPROCESSING = 'preprocessor_config.json'
_PATCH = 14 * 14  # pixels that count as a token when chunks are cut


@dataclasses.dataclass(frozen=True)
class Task:
  """What an image task is, apart from its items.

  Attributes:
    name: as in sources and configs.
    classes: class names, in label order.
    image_size: images are resized to so many pixels a side.
    metric: of its items, 'accuracy' or 'log_likelihood'.
  """

  name: str
  classes: tuple[str, ...]
  image_size: int
  metric: str = 'accuracy'
  kind: ClassVar[str] = 'images'


@dataclasses.dataclass(frozen=True)
class Preprocessing:
  """How a model wants its images.

  Attributes:
    mean, std: of each channel, of values in [0, 1].
    resample: filter of the resizing, as Pillow numbers them.
    scale: from stored values to [0, 1].
  """

  mean: tuple[float, ...]
  std: tuple[float, ...]
  resample: int
  scale: float


def preprocessing(folder: str | pathlib.Path) -> Preprocessing:
  """Reads `preprocessor_config.json` of a model.

  Raises:
    FileNotFoundError: if there is none.
    ValueError: naming an entry that is missing or wrong.
  """
  return _preprocessing(pathlib.Path(folder) / PREPROCESSING)


@functools.cache
def _preprocessing(path: pathlib.Path) -> Preprocessing:
  if not path.is_file():
    raise FileNotFoundError(
      f'{path.parent} has no {path.name}, which says how its images are '
      'normalised; copy the one of the model that it was made from'
    )
  told: Mapping[str, Any] = json.loads(path.read_text())
  mean, std = (tuple(told.get(n) or ()) for n in ('image_mean', 'image_std'))
  if not mean or len(mean) != len(std) or min(std) <= 0:
    raise ValueError(
      f'{path} has image_mean={told.get("image_mean")} and image_std='
      f'{told.get("image_std")}; expected as many positive deviations as means'
    )
  if not told.get('do_normalize', True):
    mean, std = (0.0,) * len(mean), (1.0,) * len(mean)
  scale = told.get('rescale_factor', 1 / 255)
  return Preprocessing(
    mean,
    std,
    told.get('resample', Image.Resampling.BICUBIC),
    scale if told.get('do_rescale', True) else 1.0,
  )


def prepare(pixels: np.ndarray, size: int, how: Preprocessing) -> np.ndarray:
  """One image as a model wants it, float32 [channels, size, size].

  Grey images get as many equal channels as the model has.

  Args:
    pixels: uint8 [C, H, W].
    size: pixels a side.
    how: the model's preprocessing.

  Raises:
    ValueError: for an image that is not uint8, or of other channels.
  """
  channels = len(how.mean)
  grey = pixels.ndim == 3 and pixels.shape[0] == 1
  if (
    pixels.dtype != np.uint8
    or pixels.ndim != 3
    or not (grey or pixels.shape[0] == channels)
  ):
    raise ValueError(
      f'image is {pixels.dtype} {list(pixels.shape)}; expected uint8 '
      f'[1 or {channels}, height, width]'
    )
  planes = [
    Image.fromarray(plane).resize((size, size), how.resample)
    for plane in pixels
  ]
  values = np.stack([np.asarray(plane, np.float32) for plane in planes])
  mean, std = (
    np.asarray(numbers, np.float32)[:, None, None]
    for numbers in (how.mean, how.std)
  )
  return (values * np.float32(how.scale) - mean) / std


def encode(
  task: Task,
  items: Sequence[Item],
  family: Family,
  folder: str | pathlib.Path,
) -> tuple[list[np.ndarray], np.ndarray]:
  """Images of a task as a model wants them, and flags [n], all 0.

  Args:
    task: its `image_size` is used.
    items: with pixels.
    family: takes images; the model tells itself if it does not.
    folder: of the model.
  """
  how = preprocessing(folder)
  texts = [item.id for item in items if item.pixels is None]
  if texts:
    raise ValueError(
      f'task {task.name!r} is of images, and its item {texts[0]} has none'
    )
  made = [prepare(item.pixels, task.image_size, how) for item in items]
  return made, np.zeros(len(made), np.uint8)


def bucket(
  images: Sequence[np.ndarray],
  tasks: Sequence[int],
  labels: Sequence[int],
  tokens_per_chunk: int = 2048,
  slots: Sequence[int] | np.ndarray | None = None,
  total: int | None = None,
) -> tuple[Items, ...]:
  """Items grouped by the size of their images, each in equal chunks.

  Args:
    images: float32 [channels, H, W], one an item.
    tasks: task index of each item.
    labels: class index of each item.
    tokens_per_chunk: patches that one forward pass holds, about.
    slots: positions in the whole item list; by default 0, 1, ...
    total: length of the whole item list; by default of this one.

  Returns:
    `Items` of each size with inputs `pixels` [C, B, channels, H, W]; padding
    is black and points one past the last slot.
  """
  slots = np.arange(len(images)) if slots is None else np.asarray(slots)
  total = len(images) if total is None else total
  shapes = [image.shape for image in images]
  buckets = []
  for shape in sorted(set(shapes)):
    mine = np.flatnonzero([other == shape for other in shapes])
    tokens = len(mine) * max(1, shape[1] * shape[2] // _PATCH)
    chunks = math.ceil(tokens / tokens_per_chunk)
    batch = math.ceil(len(mine) / chunks)
    size = chunks * batch
    pixels = np.zeros((size, *shape), np.float32)
    task, label = np.zeros((2, size), np.int32)
    slot = np.full(size, total, np.int32)
    for row, index in enumerate(mine):
      pixels[row] = images[index]
    task[: len(mine)] = np.asarray(tasks)[mine]
    label[: len(mine)] = np.asarray(labels)[mine]
    slot[: len(mine)] = slots[mine]
    buckets.append(
      Items(
        inputs={'pixels': pixels.reshape(chunks, batch, *shape)},
        task=task.reshape(chunks, batch),
        label=label.reshape(chunks, batch),
        slot=slot.reshape(chunks, batch),
      )
    )
  return tuple(buckets)
