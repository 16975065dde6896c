"""Failures: what is of the candidate, what is tried again, what is raised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from automerge_jax.search import failures, sanity
from automerge_jax.tasks import external


def test_reasons_of_the_gate():
  most = sanity.Vitals(np.float32(10), np.float32(5))
  for rms, nll, kind in (
    (np.nan, 1, failures.NOT_FINITE),
    (1, np.inf, failures.NOT_FINITE),
    (11, 1, failures.GATE),
    (1, 6, failures.GATE),
  ):
    found = sanity.Vitals(np.float32(rms), np.float32(nll))
    assert failures.kind(sanity.reason(found, most)) == kind


def test_memory_that_is_used_up_is_told_from_other_errors():
  with pytest.raises(jax.errors.JaxRuntimeError) as caught:
    jax.block_until_ready(jnp.zeros(1 << 46))
  assert failures.kind(caught.value) == failures.MEMORY
  told = failures.memory(caught.value, 6, 4)
  assert '6 candidates' in told
  assert 'search.batch_size below 4' in told
  assert 'Out of memory allocating' in told
  assert 'search.rungs' in failures.memory(caught.value, 6, None)
  assert failures.kind(MemoryError()) == failures.MEMORY
  assert 'MemoryError' in failures.memory(MemoryError(), 1, None)
  with pytest.raises(jax.errors.JaxRuntimeError) as caught:
    jax.block_until_ready(
      jax.jit(lambda x: jax.pure_callback(_broken, x, x))(jnp.ones(2))
    )
  assert failures.kind(caught.value) is None


def _broken(x):
  raise ValueError('a fault of the program')


def test_other_programs_and_faults_of_this_one():
  assert failures.kind(external.ScorerError('no answer')) == failures.OUTSIDE
  assert failures.kind(ValueError('not finite')) is None
  assert failures.kind(KeyboardInterrupt()) is None
