"""Kinds of failures: which are of the candidate, which of the day.

A candidate that fails by its own numbers fails always and is never tried
again. What memory or another program caused is tried again when a search is
started again, `ATTEMPTS` times in all; every attempt stays in the ledger.
"""

import jax

from automerge_jax.tasks import external

GATE = 'gate'  # refused before it was scored
NOT_FINITE = 'not finite'
MEMORY = 'memory'
OUTSIDE = 'outside'  # another program could not score it
RETRIED = (MEMORY, OUTSIDE)
ATTEMPTS = 3

_EXHAUSTED = 'RESOURCE_EXHAUSTED'  # XLA's status when memory is used up


def kind(cause: BaseException | str) -> str | None:
  """Kind of a failure, from what was raised or from the gate's reason.

  None for an exception that is no failure of a candidate: a fault of the
  program or its settings, to be raised.
  """
  if isinstance(cause, str):
    return NOT_FINITE if NOT_FINITE in cause else GATE
  if isinstance(cause, external.ScorerError):
    return OUTSIDE
  if isinstance(cause, MemoryError):
    return MEMORY
  if isinstance(cause, jax.errors.JaxRuntimeError) and _EXHAUSTED in str(cause):
    return MEMORY
  return None


def memory(
  error: BaseException, candidates: int, batch_size: int | None
) -> str:
  """Why candidates could not be scored for want of memory, and what helps.

  Args:
    error: of kind `MEMORY`.
    candidates: that were to be scored in one call.
    batch_size: candidates that are vmapped together, None for one at a time.
  """
  told = str(error).strip().partition('\n')[0] or type(error).__name__
  less = (
    'fewer items at the rungs (search.rungs)'
    if batch_size is None
    else f'search.batch_size below {batch_size}'
  )
  return (
    f'out of memory while {candidates} candidates were scored ({told}); use '
    f'{less} or a device with more memory and start again'
  )
