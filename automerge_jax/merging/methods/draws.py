"""Uniform draws of random masks: the same wherever and however a merge runs.

A draw belongs to (seed, expert, tensor, entry) and to nothing else: neither
sharding nor chunks nor threads nor devices change a mask. The generator is
Philox, counter-based (https://doi.org/10.1145/2063384.2063405): a tensor has a
key of its own and an entry its place in the stream, which NumPy keeps stable.
"""

import hashlib
import re

import numpy as np

BITS = 16
# Some checkpoints of encoder-decoders hold their one embedding three times.
_COPIES = re.compile(r'(^|\.)(?:encoder|decoder)\.embed_tokens\.weight$')
_IN_COUNTER = 16  # draws that one step of the counter gives, 4 words of 64 bits


def uniform(
  seed: int, expert: int, name: str, size: int, start: int = 0
) -> np.ndarray:
  """Draws from 0 to 65,535 for entries of a stored tensor, uint16 [size].

  Args:
    seed: of the recipe.
    expert: position among the experts.
    name: stored name of the tensor; copies of a shared embedding draw alike.
    size: number of entries, in stored order.
    start: the first entry.
  """
  name = _COPIES.sub(r'\1shared.weight', name)
  text = f'{seed}/{expert}/{name}'.encode()
  key = int.from_bytes(hashlib.sha256(text).digest()[:16], 'little')
  first, skipped = divmod(start, _IN_COUNTER)
  words = np.random.Philox(key=key, counter=first).random_raw(
    -(-(skipped + size) // 4)
  )
  # Little-endian everywhere, so that a word's draws come in one order.
  drawn = words.astype('<u8', copy=False).view('<u2')
  return drawn[skipped : skipped + size].astype(np.uint16, copy=False)
