"""Which axis of a stored matrix its layer's inputs run along.

Torch's Linear stores (out, in), GPT-2's Conv1D (in, out). For methods that look
at inputs; a matrix and its transpose are the same to all others.
"""

import re

from automerge_jax.types import Parameter

# Names of GPT-2's Conv1D layers, which some later models gave to Linear layers.
_CONV1D = re.compile(
  r'(?:^|\.)h\.\d+\.(?:attn|crossattention|mlp)'
  r'\.(?P<layer>c_attn|q_attn|c_proj|c_fc)\.weight$'
)
_EMBEDDING = re.compile(r'embed|(?:^|\.)(?:wte|wpe|shared)\.')

IN_AXIS = Parameter('in_axis', 0.0, False, setting=True)


def in_axis(name: str, shape: tuple[int, ...], stated: float) -> int:
  """-1 where the inputs run along the last axis of a matrix, else -2.

  Args:
    name: of the stored tensor.
    shape: of the tensor, (m, n).
    stated: value of the setting `in_axis`: -1 or -2 says it for all tensors, 0
      leaves it to the name.

  Raises:
    ValueError: for another value, or where name and shape disagree.
  """
  if stated in (-1, -2):
    return int(stated)
  if stated != 0:
    raise ValueError(
      f'in_axis is {stated}; expected -1 (out, in), -2 (in, out) or 0 (by name)'
    )
  found = _CONV1D.search(name)
  if not found:
    return -1
  if found['layer'] in ('c_attn', 'c_fc') and shape[0] > shape[1]:
    raise ValueError(
      f'{name!r} has the name of a GPT-2 layer, stored (in, out), but the '
      f'shape {tuple(shape)} of one stored (out, in); set in_axis to -1'
    )
  return -2


def is_linear(name: str, shape: tuple[int, ...]) -> bool:
  """Whether a tensor is a linear layer's weight: a matrix, and no embedding."""
  return len(shape) == 2 and not _EMBEDDING.search(name)
