"""Us and a peer in turns on the same work, and the machine's matmul rate."""

import contextlib
import functools
import json
import os
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
PEER = _PROJECT / '.venv-peers' / 'bin' / 'python'

# `(figure, what to work on) -> (seconds, values)`, see eval_peers.
Ask = Callable[[str, Any], tuple[float, Any]]


class Timed(NamedTuple):
  """Median seconds of each side, and what each found the last time."""

  ours: float
  peer: float
  found: Any
  peer_found: Any


@contextlib.contextmanager
def peer(
  folder: str | pathlib.Path, script: str = 'eval_peers.py'
) -> Iterator[Ask]:
  """A process of the peers that has the model of that folder.

  Args:
    folder: of the model.
    script: beside this file, which answers as eval_peers does.

  Raises:
    RuntimeError: when asked after it has died, with its last words.
  """
  with contextlib.ExitStack() as stack:
    words = stack.enter_context(tempfile.TemporaryFile('w+'))
    place = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
    process = stack.enter_context(
      subprocess.Popen(
        [PEER, _PROJECT / 'experiments/bench' / script, folder],
        env=os.environ | {'HF_HUB_OFFLINE': '1', 'OMP_NUM_THREADS': '2'},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=words,
        text=True,
      )
    )
    assert process.stdin is not None
    assert process.stdout is not None

    def ask(figure: str, work: Any) -> tuple[float, Any]:
      given = place / 'work.json'
      given.write_text(json.dumps(work))
      asked = json.dumps({'figure': figure, 'file': str(given)})
      print(asked, file=process.stdin, flush=True)
      line = process.stdout.readline()
      if not line:
        words.seek(0)
        raise RuntimeError(f'the peer has ended: {words.read()[-2000:]}')
      answer = json.loads(line)
      return answer['seconds'], answer['values']

    stack.callback(process.stdin.close)
    yield ask


def compare(
  ours: Callable[[], Any], ask: Ask, figure: str, work: Any, repeats: int
) -> Timed:
  """Times both on the same work, in turns, once unmeasured before."""
  taken: dict[str, list[float]] = {'ours': [], 'peer': []}
  found = peer_found = None
  for turn in range(repeats + 1):
    begin = time.perf_counter()
    found = ours()
    seconds = time.perf_counter() - begin
    peer_seconds, peer_found = ask(figure, work)
    if turn:
      taken['ours'].append(seconds)
      taken['peer'].append(peer_seconds)
  return Timed(
    statistics.median(taken['ours']),
    statistics.median(taken['peer']),
    found,
    peer_found,
  )


@functools.cache
def matmul_rate() -> float:
  """FLOPs a second of the fastest of a few large float32 matmuls by XLA."""
  multiply = jax.jit(jnp.matmul)
  best = 0.0
  for m, k, n in ((8192, 384, 1536), (2048, 576, 1536), (2048, 2048, 2048)):
    left = jax.random.normal(jax.random.key(0), (m, k))
    right = jax.random.normal(jax.random.key(1), (k, n))
    multiply(left, right).block_until_ready()
    for _ in range(10):
      begin = time.perf_counter()
      multiply(left, right).block_until_ready()
      best = max(best, 2 * m * k * n / (time.perf_counter() - begin))
  return best
