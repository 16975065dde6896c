"""Statistics of experts, measured on data, for one stored tensor."""

from collections.abc import Mapping, Sequence

import numpy as np

from automerge_jax.types import MergeMethod

Statistics = Mapping[str, Mapping[str, np.ndarray]]  # {statistic: {name: ...}}


def of_tensor(
  method: MergeMethod, statistics: Sequence[Statistics], name: str
) -> dict[str, np.ndarray]:
  """What the method wants of a tensor, `{statistic: [K, ...]}`.

  A statistic that no expert has of this tensor is left out: only linear layers
  have Gram matrices.

  Args:
    method: names the statistics.
    statistics: of each expert, in order.
    name: of the stored tensor.

  Raises:
    ValueError: if statistics are missing, wholly or of some experts.
  """
  if not method.statistics:
    return {}
  lacking = [
    k
    for k, expert in enumerate(statistics)
    if not set(method.statistics) <= set(expert)
  ]
  if lacking or not statistics:
    raise ValueError(
      f'{method.name} needs {list(method.statistics)} of every expert; '
      f'missing for {lacking or "all"} (by position): measure them with '
      'experiments.statistics'
    )
  found = {}
  for statistic in method.statistics:
    have = [name in expert[statistic] for expert in statistics]
    if all(have):
      found[statistic] = np.stack(
        [expert[statistic][name] for expert in statistics]
      )
    elif any(have):
      raise ValueError(
        f'{statistic} of {name!r} is there for experts '
        f'{np.flatnonzero(have).tolist()} of {len(have)} only; measure all '
        'experts with the same version'
      )
  return found
