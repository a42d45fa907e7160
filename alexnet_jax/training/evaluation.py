"""Top-1 and top-5 error over every example of a split (sections 4.1 and 6)."""

from collections.abc import Callable, Collection, Iterable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import step

# Maps images uint8[B,S,S,3] to log-probabilities f32[B,classes].
Predict = Callable[[jax.Array], jax.Array]


def evaluate(
  predictors: Sequence[Predict],
  batches: Iterable[step.Batch],
  mesh: Mesh,
  num_examples: int,
  max_undecodable: int = 0,
  *,
  left_out: Collection[int] = (),
  observe: Callable[[jax.Array, step.Batch], None] = lambda *_: None,
) -> dict[str, float]:
  """Evaluates one network, or several as an ensemble; counts an example once.

  Args:
    predictors: one per network; their class probabilities are averaged.
    batches: on the devices of `mesh`; examples of weight 0 only fill up.
    num_examples: number of examples that `batches` must hold.
    max_undecodable: how many of these may be missing.
    left_out: indices of examples that `batches` leave out; it may grow while
      they are read.
    observe: called with the log-probabilities f32[B,classes] of each batch, and
      the batch.

  Returns:
    `num_examples`, the number of examples counted, and the means `loss`,
    `top1_error` and `top5_error`.

  Raises:
    UserError: the batches held fewer examples.
  """
  score = step.make_score(mesh)
  totals: dict[str, float] = {}
  for batch in batches:
    predictions = [predict(batch["image"]) for predict in predictors]
    average = _average(predictions)
    observe(average, batch)
    sums = score(average, batch["label"], batch["weight"])
    for name, value in jax.device_get(sums).items():
      totals[name] = totals.get(name, 0.0) + float(value)
  counted = round(totals.pop("weight", 0))
  num_examples -= len(left_out)
  if not counted:
    raise UserError("the evaluation has no image: all of them are left out.")
  if not num_examples - max_undecodable <= counted <= num_examples:
    raise UserError(
      f"the evaluation counted {counted} of {num_examples} examples; the others"
      " could not be decoded. `python -m alexnet_jax.prepare --check` lists"
      " them."
    )
  means = {name: total / counted for name, total in totals.items()}
  return {"num_examples": counted, **means}


def _average(log_probabilities: Sequence[jax.Array]) -> jax.Array:
  """The logarithm of the mean probability of several networks."""
  if len(log_probabilities) == 1:
    return log_probabilities[0]
  count = np.log(len(log_probabilities)).astype(np.float32)
  return jax.nn.logsumexp(jnp.stack(log_probabilities), axis=0) - count
