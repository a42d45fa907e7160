"""The input pipeline: order, resuming, undecodable images, batch memory."""

import gc
import itertools
import os
import sys
import threading
import time

import jax
import numpy as np
import pytest
import simplejpeg
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from alexnet_jax.data import parallel, pipeline
from alexnet_jax.data.sources import Source, permutation
from alexnet_jax.runtime.command import UserError


def source_of(count, bad=()):
  """Grey images of value 2 + 3 i; those in `bad` cannot be decoded."""
  records = [
    (simplejpeg.encode_jpeg(np.full((8, 10, 3), 2 + 3 * i, np.uint8)), i % 5)
    for i in range(count)
  ]
  for i in bad:
    records[i] = (b"\xff\xd8\xffjunk", 0)
  return Source(records, "abcde", fingerprint="levels", name="levels train")


def train(count, steps, start=0, batch_size=4, seed=0, bad=(), **options):
  batches = pipeline.train_batches(
    source_of(count, bad),
    batch_size=batch_size,
    seed=seed,
    start_step=start,
    size=8,
    **options,
  )
  return list(itertools.islice(batches, steps))


def joined(batches, key):
  return np.concatenate([batch[key] for batch in batches])


def equal(one, other):
  for a, b in zip(one, other, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      np.testing.assert_array_equal(a[key], b[key])


def test_a_batch_has_the_examples_of_its_indices():
  (batch,) = train(20, 1)
  assert batch["image"].shape == (4, 8, 8, 3)
  assert batch["image"].dtype == np.uint8
  for key in ("label", "index", "epoch"):
    assert batch[key].shape == (4,)
    assert batch[key].dtype == np.int32
  assert batch["weight"].dtype == np.float32
  levels = batch["image"].astype(int).mean((1, 2, 3))
  np.testing.assert_allclose(levels, 2 + 3 * batch["index"], atol=1)
  np.testing.assert_array_equal(batch["label"], batch["index"] % 5)
  np.testing.assert_array_equal(batch["weight"], 1)


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 9), st.integers(0, 3))
def test_every_example_comes_once_per_epoch(count, batch_size, seed):
  steps = -(-3 * count // batch_size)
  batches = train(count, steps, batch_size=batch_size, seed=seed)
  indices, epochs = joined(batches, "index"), joined(batches, "epoch")
  np.testing.assert_array_equal(epochs, np.arange(len(epochs)) // count)
  for epoch in range(3):
    assert sorted(indices[epochs == epoch]) == list(range(count))


def test_batches_span_epochs():
  batches = train(6, 3)
  np.testing.assert_array_equal(batches[1]["epoch"], [0, 0, 1, 1])


def test_orders_differ_between_epochs_and_seeds():
  orders = [
    tuple(joined(train(30, 2, batch_size=30, seed=seed), "index")[part])
    for seed in range(3)
    for part in (slice(30), slice(30, 60))
  ]
  assert len(set(orders)) == 6
  assert tuple(range(30)) not in orders


def test_resuming_at_any_step_continues_exactly():
  whole = train(7, 9)
  for start in (0, 1, 5, 8):
    equal(train(7, 9 - start, start=start), whole[start:])


def test_the_order_does_not_depend_on_threads(monkeypatch):
  monkeypatch.setattr(parallel, "num_cores", lambda: 1)
  one = train(9, 6)
  monkeypatch.setattr(parallel, "num_cores", lambda: 4)
  equal(one, train(9, 6))


@pytest.mark.parametrize(
  ("threads", "expected"),
  [(0, 6), (9, 9)],  # of the quota; chosen by the user
)
def test_the_threads_and_the_memory_are_announced(
  monkeypatch, threads, expected
):
  monkeypatch.setattr(parallel, "num_cores", lambda: 6)
  loading = pipeline.Loading.plan(threads, 4096 * 224 * 224 * 3)
  assert str(loading) == (
    f"{expected} threads load images; at most 2 batches of 616.6 MB are ahead"
    " of the devices (1.2 GB)"
  )


class Slow(list):
  """Records that take a while to be read, each thread another while."""

  def __getitem__(self, index):
    time.sleep(0.0005 * (1 + threading.get_native_id() % 3))
    return super().__getitem__(index)


@pytest.mark.parametrize("threads", [1, 3, 16])
@pytest.mark.parametrize("waiting", [0.0, 0.02])
def test_two_batches_are_ahead_whatever_the_threads(
  monkeypatch, threads, waiting
):
  """Of a slow consumer, and of one that waits for each batch."""
  begun, finished, most, memory, workers = 0, 0, 0, set(), set()
  take = pipeline.BatchMemory.take

  def watched(self):
    nonlocal begun, most
    batch = take(self)
    memory.add(address(batch))
    most = max(most, begun + 1 - finished)
    begun += 1  # last: the loop below waits for it
    return batch

  def decode(*arguments, original=pipeline.decode_into):
    workers.add(threading.get_native_id())
    original(*arguments)

  monkeypatch.setattr(pipeline.BatchMemory, "take", watched)
  monkeypatch.setattr(pipeline, "decode_into", decode)
  source = source_of(20)
  source.records = Slow(source.records)
  options = {"batch_size": 8, "size": 8, "threads": threads}
  training = pipeline.train_batches(source, seed=0, start_step=0, **options)
  evaluation = pipeline.evaluation_batches(source, **options)
  for stream in (itertools.islice(training, 12), evaluation):
    begun = 0
    for finished, _ in enumerate(stream, 1):  # noqa: B007
      time.sleep(waiting)
    # The training's 13th is on its way; it must not count as the evaluation's.
    while stream is not evaluation and begun < 13:
      time.sleep(0.001)
    finished = 0
  assert 1 <= most <= 2
  # Those of the training stay while an evaluation reads others.
  assert len(memory) <= 2 * (2 + 1)
  # One thread may load a whole small batch before the others have started.
  assert workers if threads == 1 else len(workers) > 1
  assert len(workers) <= 2 * threads


@pytest.mark.skipif(sys.platform != "linux", reason="threads have no priority")
def test_decoding_threads_have_a_lower_priority():
  """The main thread keeps its priority."""
  priorities = []

  class Records(list):
    def __getitem__(self, index):
      thread = threading.get_native_id()
      priorities.append((thread, os.getpriority(os.PRIO_PROCESS, thread)))
      return super().__getitem__(index)

  source = source_of(20)
  records = Records(source[i] for i in range(20))
  watched = Source(records, "abcde", fingerprint="levels", name="levels train")
  before = os.getpriority(os.PRIO_PROCESS, 0)
  batches = pipeline.train_batches(
    watched, batch_size=4, seed=0, start_step=0, size=8
  )
  list(itertools.islice(batches, 9))
  assert {nice for _, nice in priorities} == {max(parallel.NICENESS, before)}
  assert threading.get_native_id() not in {thread for thread, _ in priorities}
  assert os.getpriority(os.PRIO_PROCESS, 0) == before


def test_processes_share_the_same_global_batches():
  whole = train(7, 6, batch_size=6)
  parts = [
    train(7, 6, batch_size=6, process_index=i, process_count=3)
    for i in range(3)
  ]
  for step, batch in enumerate(whole):
    for key, expected in batch.items():
      together = np.concatenate([part[step][key] for part in parts])
      np.testing.assert_array_equal(together, expected)


def test_the_batch_size_must_be_divisible_by_the_processes():
  with pytest.raises(UserError, match="batch_size=5 is not divisible"):
    train(7, 1, batch_size=5, process_count=2)


def test_an_empty_source_is_an_error():
  with pytest.raises(UserError, match="no images to train on"):
    train(0, 1)


def test_undecodable_images_have_weight_0_up_to_the_limit():
  # Three epochs: an image counts once.
  batches = train(8, 6, bad=(3, 5), max_undecodable=2)
  weights, indices = joined(batches, "weight"), joined(batches, "index")
  np.testing.assert_array_equal(weights == 0, np.isin(indices, (3, 5)))
  assert not joined(batches, "image")[weights == 0].any()


def test_images_left_out_before_resuming_count():
  order = permutation(8, 0, 0).tolist()
  second_batch = {"start": 1, "bad": (order[0], order[7])}
  train(8, 1, **second_batch, max_undecodable=1)
  with pytest.raises(UserError, match="2 images cannot be decoded"):
    train(8, 1, **second_batch, max_undecodable=1, left_out=[order[0]])
  # The image that was left out before is met again and counts once.
  train(8, 1, bad=order[:1], max_undecodable=1, left_out=[order[0]])


def test_too_many_undecodable_images_are_an_error_with_a_name():
  with pytest.raises(UserError) as caught:
    train(8, 2, bad=(3,))
  text = str(caught.value)
  assert "levels train[3] cannot be decoded" in text
  assert "max_undecodable allows 0" in text
  with pytest.raises(UserError, match="3 images cannot be decoded"):
    train(8, 2, bad=(3, 4, 6), max_undecodable=2)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 12), st.integers(1, 5), st.sampled_from([1, 2]))
def test_evaluation_reads_every_example_once(count, per_process, processes):
  examples, lengths = [], []
  for process in range(processes):
    batches = list(
      pipeline.evaluation_batches(
        source_of(count),
        batch_size=per_process * processes,
        size=8,
        process_index=process,
        process_count=processes,
      )
    )
    lengths.append(len(batches))
    for batch in batches:
      assert batch["image"].shape == (per_process, 8, 8, 3)
      examples += batch["index"][batch["weight"] == 1].tolist()
  assert sorted(examples) == list(range(count))
  assert len(set(lengths)) == 1  # else a collective would never finish
  assert lengths[0] == -(-count // (per_process * processes))


def test_evaluation_keeps_the_order():
  batches = pipeline.evaluation_batches(
    source_of(10, bad=(2,)), batch_size=4, size=8, max_undecodable=1
  )
  batches = list(batches)
  weights = joined(batches, "weight")
  np.testing.assert_array_equal(joined(batches, "index")[:10], range(10))
  np.testing.assert_array_equal(weights == 0, [0, 0, 1] + [0] * 7 + [1, 1])


def test_batches_are_sharded_and_transferred_when_asked_for():
  mesh = jax.make_mesh(
    (4, 2), ("data", "model"), (jax.sharding.AxisType.Explicit,) * 2
  )
  sharding = NamedSharding(mesh, PartitionSpec("data"))
  pulled = []

  def watched():
    for batch in train(16, 5, batch_size=8):
      pulled.append(batch)
      yield batch

  stream = pipeline.to_device(watched(), sharding)
  first = next(stream)
  assert len(pulled) == 1
  assert first["image"].sharding == sharding
  assert first["image"].dtype == np.uint8
  assert first["image"].addressable_shards[0].data.shape == (2, 8, 8, 3)
  rest = [first, *stream]
  equal([jax.device_get(batch) for batch in rest], pulled)


def address(array):
  return array.__array_interface__["data"][0]


def test_memory_is_reused():
  pool = pipeline.BatchMemory((4, 5))
  first = pool.take()
  assert (first.shape, first.dtype) == ((4, 5), np.uint8)
  assert first.flags.writeable
  assert first.flags.c_contiguous
  second = pool.take()
  assert address(first) != address(second)
  where = address(first)
  del first
  assert address(pool.take()) == where


def test_a_view_keeps_the_memory():
  pool = pipeline.BatchMemory((4, 5))
  whole = pool.take()
  whole[:] = 7
  where = address(whole)
  view = whole[1:3].reshape(-1)[2:]
  del whole
  gc.collect()
  other = pool.take()
  assert address(other) != where
  other[:] = 9
  assert (view == 7).all()
  del view
  assert address(pool.take()) == where


def test_a_jax_array_keeps_the_memory_it_shares():
  pool = pipeline.BatchMemory((512, 512))
  for level in range(20):
    array = pool.take()
    array[:] = level
    on_device = jax.device_put(array)
    view = jax.numpy.asarray(array)
    del array
    for _ in range(3):
      pool.take()[:] = 255
    assert (np.asarray(on_device) == level).all()
    assert (np.asarray(view) == level).all()


def test_an_array_outlives_its_pool():
  array = pipeline.BatchMemory((3,)).take()
  array[:] = 1
  gc.collect()
  assert array.tolist() == [1, 1, 1]


@pytest.mark.parametrize("label", [-1, 5])
def test_a_label_of_no_class_stops_training_and_evaluation(label):
  source = source_of(12)
  source.records[9] = source.records[9][0], label
  options = {"batch_size": 4, "size": 8}
  batches = pipeline.evaluation_batches(source, **options)
  found = next(batches)["label"].tolist() + next(batches)["label"].tolist()
  assert found == [0, 1, 2, 3, 4, 0, 1, 2]
  with pytest.raises(UserError, match=r"levels train\[9\] has"):
    next(batches)
  batches = pipeline.train_batches(source, seed=0, start_step=0, **options)
  with pytest.raises(UserError, match=r"levels train\[9\] has"):
    list(itertools.islice(batches, 3))
