"""Linear probe: multinomial logistic regression on frozen features.

A probed head is where fine-tuning starts from, so that the first steps do not
bend the trunk to a random head: https://arxiv.org/abs/2202.10054.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from automerge_jax.types import Array


@functools.partial(jax.jit, static_argnames=('num_classes', 'steps'))
def fit(
  features: Array,
  labels: Array,
  *,
  num_classes: int,
  l2: float = 100.0,
  steps: int = 100,
) -> tuple[Array, Array]:
  """The head that minimises cross-entropy + l2 / (2 n) |kernel|^2, by L-BFGS.

  Args:
    features: [n, d].
    labels: class indices, int32 [n].
    num_classes: C.
    l2: strength of the penalty, against the sum over items.
    steps: L-BFGS steps.

  Returns:
    kernel [d, C] and bias [C], float32.
  """

  def loss(head):
    values = features @ head[0] + head[1][None]
    nll = optax.softmax_cross_entropy_with_integer_labels(values, labels)
    return jnp.mean(nll) + 0.5 * l2 / len(labels) * jnp.sum(jnp.square(head[0]))

  optimizer = optax.lbfgs()
  value_and_grad = optax.value_and_grad_from_state(loss)

  def step(carry, _):
    head, state = carry
    value, grad = value_and_grad(head, state=state)
    updates, state = optimizer.update(
      grad, state, head, value=value, grad=grad, value_fn=loss
    )
    return (optax.apply_updates(head, updates), state), None

  head = (
    jnp.zeros((features.shape[-1], num_classes), jnp.float32),
    jnp.zeros(num_classes, jnp.float32),
  )
  (head, _), _ = jax.lax.scan(step, (head, optimizer.init(head)), None, steps)
  return head
