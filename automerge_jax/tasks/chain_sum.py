"""Sums and differences of two or three numbers, as reasoning-gym draws them.

The items are kept beside this module, since that package needs a compiler and
ten others; `python -m automerge_jax.tasks.chain_sum`, where reasoning-gym
0.1.25 is installed (`pip install automerge_jax[arithmetic]`), draws them
again, the same bytes.
"""

import hashlib
import importlib
import pathlib

DRAWS = 12_000
PATH = pathlib.Path(__file__).with_suffix('.tsv')
SHA256 = '5b1a7c1365dcd2c9335678a868e75d4652df8e7e5c66248f92733f743bcd0305'


def read(path: pathlib.Path = PATH) -> list[tuple[str, str]]:
  """Each expression once, such as `12 + 7 - 30`, and what it comes to.

  Raises:
    ValueError: if the file is not the one whose hash is pinned.
  """
  content = path.read_bytes()
  have = hashlib.sha256(content).hexdigest()
  if have != SHA256:
    raise ValueError(
      f'{path} has SHA-256 {have}, expected {SHA256}; get it anew from the '
      'repository'
    )
  rows = [row.split('\t') for row in content.decode().splitlines()]
  return [(expression, answer) for expression, answer in rows]


def draw() -> str:
  """What the file holds, drawn by reasoning-gym with seed 0."""
  # An extra, needed for this alone.
  reasoning_gym = importlib.import_module('reasoning_gym')
  dataset = reasoning_gym.create_dataset(
    'chain_sum',
    min_terms=2,
    max_terms=3,
    min_digits=1,
    max_digits=2,
    seed=0,
    size=DRAWS,
  )
  items = {item['metadata']['expression']: item['answer'] for item in dataset}
  return ''.join(f'{x}\t{answer}\n' for x, answer in items.items())


if __name__ == '__main__':
  PATH.write_text(draw())
