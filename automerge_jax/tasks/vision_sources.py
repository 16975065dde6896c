"""Labelled images of the vision suite, read from the pinned packages."""

import base64
import functools
import gzip
import io
import json
from collections.abc import Callable

import numpy as np
from PIL import Image

from automerge_jax.io import assets
from automerge_jax.tasks import images, sources
from automerge_jax.tasks.sources import Example, Source

ANIMALS = ('bird', 'cat', 'deer', 'dog', 'frog', 'horse')
VEHICLES = ('airplane', 'automobile', 'ship', 'truck')
DIGITS = tuple('0123456789')
IMAGE_SIZES = {
  'cifar10_animals': 70,
  'cifar10_vehicles': 70,
  'mnist5k': 56,
  'digits': 56,
}


def cifar10(classes: tuple[str, ...]) -> Source:
  """Some classes of CIFAR-10: 32 x 32 colour photographs, 1,000 a class.

  Krizhevsky (2009). These are its 10,000 test images, as BIG-bench packs them:
  no score on them compares with published ones.
  """
  return Source(
    classes,
    tuple(
      Example('', classes.index(name), pixels=_decoded(png))
      for png, name in _cifar10()
      if name in classes
    ),
  )


@functools.cache
def _cifar10() -> list[tuple[str, str]]:
  """(PNG in base64, class) of each image."""
  path = assets.fetch('cifar10') / 'test.json'
  rows = json.loads(path.read_text())['examples']
  return [
    (row['input'], max(row['target_scores'], key=row['target_scores'].get))
    for row in rows
  ]


def _decoded(png: str) -> np.ndarray:
  with Image.open(io.BytesIO(base64.b64decode(png))) as image:
    return np.asarray(image.convert('RGB')).transpose(2, 0, 1).copy()


def mnist5k() -> Source:
  """500 of each digit of MNIST, 28 x 28 grey: LeCun et al. (1998)."""
  return _table('mnist', 'mnist_5k.csv.gz', 28, 1)


def digits() -> Source:
  """Handwritten digits of 8 x 8 counts from 0 to 16, 1,797 in all.

  Alpaydin and Kaynak (1998), the test part.
  """
  return _table('digits', 'digits.csv.gz', 8, 15.9375)


def _table(asset: str, name: str, side: int, scale: float) -> Source:
  """A table with an image a row, its label last."""
  with gzip.open(assets.fetch(asset) / name, 'rt') as file:
    rows = np.loadtxt(file, delimiter=',')
  pixels = np.rint(rows[:, :-1] * scale).astype(np.uint8)
  return Source(
    DIGITS,
    tuple(
      Example('', int(label), pixels=image)
      for label, image in zip(
        rows[:, -1], pixels.reshape(-1, 1, side, side), strict=True
      )
    ),
  )


SOURCES: dict[str, Callable[[], Source]] = {
  'cifar10_animals': functools.partial(cifar10, ANIMALS),
  'cifar10_vehicles': functools.partial(cifar10, VEHICLES),
  'mnist5k': mnist5k,
  'digits': digits,
}


def make_task(name: str, image_size: int | None = None) -> images.Task:
  """A task of the suite, by default at the size that suits its images."""
  classes = sources.read(name).classes
  return images.Task(name, classes, image_size or IMAGE_SIZES[name])
