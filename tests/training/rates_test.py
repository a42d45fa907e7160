"""The rate of every step, for each schedule, length and resumption.

Eight images in batches of three, so that batches span two epochs: step s (from
0) begins in epoch 3 s / 8. The tables were computed by hand.
"""

import dataclasses
import itertools
import json
import math

import pytest

from alexnet_jax.runtime import config as configs
from alexnet_jax.runtime.command import UserError
from alexnet_jax.training.job import timed_schedule
from alexnet_jax.training.timetable import Timetable
from configs import paper

NAMES = ("piecewise", "plateau", "dexp", "log145_2012", "log145_2010", "cosine")
# The validation error after each evaluation; then it stays 0.7.
ERRORS = (0.9, 0.8, 0.8, 0.7)


def start(name, total_epochs, total_steps, **schedule):
  """The schedule and the timetable of a run."""
  config = paper.get_config()
  config.schedule.update(
    name=name, boundaries=(1.0, 2.0), patience=1, drops=2, **schedule
  )
  with config.ignore_type():  # fractions of an epoch
    config.total_epochs, config.total_steps = total_epochs, total_steps
  timetable = Timetable(
    num_examples=8,
    batch_size=3,
    total_epochs=total_epochs,
    total_steps=total_steps,
  )
  return timed_schedule(config, timetable), timetable


def rates(name, *lengths, **schedule):
  """The rates of a run that ends and is resumed with other lengths.

  Each length is (total_epochs, total_steps), or (total_epochs, total_steps,
  stop) for a run that a signal stops after so many steps.
  """
  found, saved, errors = (
    [],
    None,
    itertools.chain(ERRORS, itertools.repeat(0.7)),
  )
  for total_epochs, total_steps, *stop in lengths:
    run, timetable = start(name, total_epochs, total_steps, **schedule)
    if saved:
      run = run.resumed(json.loads(saved), timetable.epoch(len(found)))
    while len(found) < min([timetable.last_step, *stop]):
      found.append(run.rate(timetable.epoch(len(found))))
      if timetable.evaluates(len(found)):
        run.observe(next(errors))
    saved = json.dumps(dataclasses.asdict(run))
  return found


def exponents(text):
  """ "223" -> rates [1e-2, 1e-2, 1e-3]; spaces separate epochs."""
  return [10.0 ** -int(digit) for digit in text.replace(" ", "")]


def cosine(*halves):
  return [0.005 * (1 + math.cos(math.pi * share)) for share in halves]


FACTOR = 250 ** (1 / 3)


def dexp(text):
  """ "0012" -> 0.01 divided so many times by the cube root of 250."""
  return [0.01 / FACTOR ** int(digit) for digit in text.replace(" ", "")]


# (schedule, lengths as of `rates`, expected). Three epochs are eight steps. The
# steps 3 and 6 are the first that begin in the epochs 1 and 2: step 2 spans the
# epochs 0 and 1 and belongs to 0.
TABLE = [
  ("piecewise", [(3, 0)], exponents("222 333 44")),
  ("piecewise", [(3, 4)], exponents("222 3")),
  ("piecewise", [(0.5, 8)], exponents("222 333 44")),
  ("piecewise", [(3, 0, 2), (3, 0)], exponents("222 333 44")),
  ("piecewise", [(1, 0), (3, 0)], exponents("222 333 44")),
  ("piecewise", [(9, 4), (9, 6), (3, 0)], exponents("222 333 44")),
  # Evaluations come after the steps 3, 6, 8, 11, 14 and 16. The second 0.8,
  # after step 8, is the first drop, and the second 0.7, after 14, the other.
  ("plateau", [(6, 0)], exponents("222 222 22 333 333 44")),
  ("plateau", [(6, 0, 9), (6, 0)], exponents("222 222 22 333 333 44")),
  ("plateau", [(1, 16)], exponents("222 222 22 333 333 44")),
  ("plateau", [(1, 0), (6, 0)], exponents("222 222 22 333 333 44")),
  # The first drops are at 25 and at 23 epochs, whatever the length.
  ("log145_2012", [(25.5, 0, 9), (25.5, 0)], exponents("2" * 67 + "3")),
  ("log145_2012", [(1, 68)], exponents("2" * 67 + "3")),
  ("log145_2010", [(1, 2), (23.5, 0)], exponents("2" * 62 + "3")),
  # Quarters of three epochs are two steps each.
  ("dexp", [(3, 0)], dexp("00 11 22 33")),
  ("dexp", [(90, 8)], dexp("00 11 22 33")),
  ("dexp", [(90, 8, 5), (90, 8)], dexp("00 11 22 33")),
  ("dexp", [(3, 0, 1), (90, 8)], dexp("00 11 22 33")),
  # A longer run keeps the drops that were made, and its rate never rises.
  ("dexp", [(3, 0), (6, 0)], dexp("00 11 22 33 33333333")),
  ("dexp", [(90, 8), (90, 16)], dexp("00 11 22 33 33333333")),
  # After 3 steps the drop of step 2 stays. The others are those of 16 steps.
  ("dexp", [(3, 0, 3), (6, 0)], dexp("00 111111 2222 3333")),
  ("dexp", [(3, 0, 3), (6, 0, 9), (6, 0)], dexp("00 111111 2222 3333")),
  # Shorter, quarters of one step: drops that are late are made at once.
  ("dexp", [(3, 0, 2), (90, 4)], dexp("00 2 3")),
  ("cosine", [(3, 0)], cosine(*(s / 8 for s in range(8)))),
  ("cosine", [(90, 8)], cosine(*(s / 8 for s in range(8)))),
  ("cosine", [(90, 8, 3), (3, 0)], cosine(*(s / 8 for s in range(8)))),
  # A longer run takes the rates of its length from there on.
  (
    "cosine",
    [(90, 4), (90, 8)],
    cosine(0, 1 / 4, 2 / 4, 3 / 4, 4 / 8, 5 / 8, 6 / 8, 7 / 8),
  ),
]


@pytest.mark.parametrize(("name", "lengths", "expected"), TABLE)
def test_the_rate_of_every_step(name, lengths, expected):
  assert rates(name, *lengths) == pytest.approx(expected, rel=1e-12)


def test_every_schedule_is_in_the_table():
  assert {name for name, *_ in TABLE} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("length", [(3, 0), (90, 8)])
def test_where_a_run_is_interrupted_makes_no_difference(name, length):
  whole = rates(name, length)
  assert len(whole) == 8
  for stop in range(1, 8):
    assert rates(name, (*length, stop), length) == whole


def test_a_warm_up_rises_from_the_first_step_on():
  """Three epochs are eight steps: an eighth of the rate, two eighths, ..."""
  found = rates("cosine", (6, 0), warmup_epochs=3.0)
  rising = [0.01 * s / 8 for s in range(1, 9)]
  assert found == pytest.approx(rising + cosine(*(s / 8 for s in range(8))))


def test_a_run_that_began_with_a_rate_of_0_goes_on_with_its_rates():
  """Checkpoints from before have no `step_epochs`."""
  begun, timetable = start("cosine", 6, 0, warmup_epochs=3.0)
  saved = dataclasses.asdict(begun)
  del saved["step_epochs"]
  resumed = begun.resumed(saved, timetable.epoch(2))
  found = [resumed.rate(timetable.epoch(s)) for s in range(2, 9)]
  assert found == pytest.approx([0.01 * s / 8 for s in range(2, 9)])
  assert resumed.jump(saved, timetable.epoch(2)) == ""


def test_biases_of_dexp_do_not_rise_either():
  """They drop once, at half time: epoch 1.5 of 3 and 3 of 6."""
  options = {"bias_drops": "once", "bias_learning_rate": 0.02}
  run, timetable = start("dexp", 3, 0, **options)
  longer, _ = start("dexp", 6, 0, **options)
  for done, after in ((3, 0.02), (5, 0.002)):
    resumed = longer.resumed(dataclasses.asdict(run), timetable.epoch(done))
    assert resumed.rates(2.0).biases == pytest.approx(after, rel=1e-6)


def test_a_plateau_without_evaluations_is_refused():
  config = paper.get_config()
  config.schedule.name, config.eval_every_epochs = "plateau", 0.0
  timetable = Timetable(num_examples=8, batch_size=3, total_epochs=3)
  with pytest.raises(UserError, match=r"plateau.*eval_every_epochs=0"):
    timed_schedule(config, timetable)
  config.schedule.name = "piecewise"
  assert timed_schedule(config, timetable).rate(0) == 0.01
  assert configs.to_json(config)["eval_every_epochs"] == 0.0
