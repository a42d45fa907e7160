"""Checkpoints: any mesh, bit for bit, nothing damaged is believed."""

import asyncio
import gc
import resource
import shutil

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec
from orbax.checkpoint._src.path import async_path

from alexnet_jax.runtime.command import UserError
from alexnet_jax.training import array_checksums, checkpoint, checkpoint_files

METADATA = {"rate": 0.01, "drops": 2, "config": {"stops": [1, 2]}}


def _mesh(data, model):
  devices = jax.devices()[: data * model]
  return jax.make_mesh((data, model), ("data", "model"), devices=devices)


def _sharding(mesh, tower_axis):
  return NamedSharding(mesh, PartitionSpec("model" if tower_axis else None))


def _values(seed=0):
  """The lead axis of `conv1` and `velocity` is the tower's."""
  rng = np.random.default_rng(seed)
  return {
    "parameters": {
      "conv1": rng.normal(size=(2, 3, 5)).astype(np.float32),
      "bias": rng.normal(size=7).astype(np.float32),
    },
    "velocity": rng.normal(size=(2, 11)).astype(np.float32),
    "step": np.asarray(seed, np.int32),
  }


def _place(values, mesh):
  def put(x):
    spec = PartitionSpec("model") if x.ndim > 1 else PartitionSpec()
    return jax.device_put(x, NamedSharding(mesh, spec))

  return jax.tree.map(put, values)


def _abstract(mesh, values=None):
  arrays = _place(_values() if values is None else values, mesh)
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding),
    arrays,
  )


def _assert_same_bits(arrays, values):
  def check(array, value):
    assert array.dtype == value.dtype
    np.testing.assert_array_equal(
      np.asarray(array).view(np.uint32), value.view(np.uint32)
    )

  jax.tree.map(check, arrays, values)


@pytest.fixture
def checkpoints(tmp_path):
  opened = []

  def open_them(**arguments):
    opened.append(checkpoint.Checkpoints(str(tmp_path / "c"), **arguments))
    return opened[-1]

  yield open_them
  for each in reversed(opened):
    each.close()


def _save_two(checkpoints, **metadata):
  """Saves the steps 1 and 2, with their values; returns the mesh."""
  mesh, manager = _mesh(1, 2), checkpoints()
  for step in (1, 2):
    manager.save(step, _place(_values(step), mesh), {"of": step, **metadata})
  manager.wait()
  return mesh


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (4, 2), (1, 1)])
def test_restores_on_any_mesh_bit_for_bit(checkpoints, shape):
  values = _values()
  values["velocity"][0, :3] = [np.nan, -0.0, np.inf]
  first = checkpoints()
  first.save(5, _place(values, _mesh(1, 2)), METADATA)
  first.wait()
  mesh = _mesh(*shape)
  arrays, metadata = checkpoints().restore(_abstract(mesh))
  _assert_same_bits(arrays, values)
  assert metadata == METADATA
  conv1 = arrays["parameters"]["conv1"]
  assert conv1.sharding == NamedSharding(mesh, PartitionSpec("model"))
  assert str(jax.typeof(conv1)) == "float32[2@model,3,5]"


def test_restores_on_one_device_without_a_mesh(checkpoints):
  first = checkpoints()
  first.save(5, _place(_values(), _mesh(1, 2)), METADATA)
  first.wait()
  device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
  abstract = jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), _values()
  )
  arrays, _ = checkpoints().restore(abstract)
  _assert_same_bits(arrays, _values())


def test_opening_to_read_logs_nothing(checkpoints, caplog, monkeypatch):
  first = checkpoints()
  first.save(5, _place(_values(), _mesh(1, 2)), METADATA)
  first.wait()
  logger = absl.logging.get_absl_logger()
  monkeypatch.setattr(logger, "filters", [])  # as in a notebook
  monkeypatch.setattr(logger, "handlers", [caplog.handler])
  with caplog.at_level("WARNING", logger="absl"):
    assert checkpoints(read_only=True).latest_step() == 5
  assert not caplog.records


def test_no_checkpoint(checkpoints):
  assert checkpoints().latest_step() is None
  assert checkpoints().restore(_abstract(_mesh(1, 2))) is None


def test_keeps_the_newest(checkpoints, tmp_path):
  mesh = _mesh(1, 2)
  first = checkpoints(max_to_keep=2)
  for step in (1, 2, 3):
    first.save(step, _place(_values(step), mesh), {"of": step})
  first.wait()
  assert first.latest_step() == 3
  folders = {path.name for path in (tmp_path / "c").iterdir()}
  assert folders == {"2", "3"}


def test_keeps_the_best_beside_the_newest(checkpoints, tmp_path):
  mesh = _mesh(1, 2)
  first = checkpoints(max_to_keep=1)
  errors = {1: 0.5, 2: 0.3, 3: None, 4: 0.4, 5: None}
  for step, error in errors.items():
    first.save(step, _place(_values(step), mesh), {}, error)
  first.wait()
  assert {path.name for path in (tmp_path / "c").iterdir()} == {"2", "5"}
  again = checkpoints(max_to_keep=1)  # it still knows which one was best
  again.save(6, _place(_values(6), mesh), {}, 0.35)
  again.wait()
  assert {path.name for path in (tmp_path / "c").iterdir()} == {"2", "6"}


def test_an_error_that_is_known_after_the_save_survives_restarts(
  checkpoints, tmp_path
):
  """A signal interrupted the evaluation at step 2; it was repeated."""
  mesh = _mesh(1, 2)
  first = checkpoints(max_to_keep=1)
  first.save(1, _place(_values(1), mesh), {}, 0.5)
  first.save(2, _place(_values(2), mesh), {})
  first.wait()
  known = {2: 0.3}
  again = checkpoints(max_to_keep=1, validation_errors=known)
  for step, error in {3: 0.4, 4: 0.45}.items():
    again.save(step, _place(_values(step), mesh), {}, error)
  again.wait()
  assert {path.name for path in (tmp_path / "c").iterdir()} == {"2", "4"}
  reader = checkpoints(read_only=True, validation_errors=known)
  arrays, _ = reader.restore(_abstract(mesh), "best")
  _assert_same_bits(arrays, _values(2))


def test_reads_the_best_one_and_that_of_a_step(checkpoints, tmp_path, capfd):
  mesh = _mesh(1, 2)
  first = checkpoints(max_to_keep=3)
  assert first.restore(_abstract(mesh), "best") is None
  for step, error in {1: 0.5, 4: 0.2, 12: 0.4}.items():
    first.save(step, _place(_values(step), mesh), {}, error)
  first.wait()
  reader = checkpoints(read_only=True)
  for name, step in {"newest": 12, "best": 4, "4": 4, "1": 1}.items():
    arrays, _ = reader.restore(_abstract(mesh), name)
    _assert_same_bits(arrays, _values(step))
  with pytest.raises(UserError, match=r"step 3\. .* 1, 4 \(best\), 12\."):
    reader.restore(_abstract(mesh), "3")
  for wrong in ("latest", "-1", "", "4.0"):
    with pytest.raises(UserError, match="newest, best or the step"):
      reader.restore(_abstract(mesh), wrong)
  # No other one replaces a damaged one that was asked for.
  (tmp_path / "c" / "4" / "metadata" / "metadata").write_text("{}")
  for name in ("best", "4"):
    with pytest.raises(UserError, match=r"checkpoint 4 .* is damaged"):
      reader.restore(_abstract(mesh), name)
  assert not capfd.readouterr().err


def test_without_an_evaluation_none_is_the_best(checkpoints):
  mesh = _mesh(1, 2)
  first = checkpoints()
  first.save(1, _place(_values(1), mesh), {})
  first.wait()
  with pytest.raises(UserError, match=r"none is the best\. .* step: 1"):
    first.restore(_abstract(mesh), "best")


def test_full_disk_keeps_the_last_good_one_and_the_next_save_goes_through(
  checkpoints, tmp_path, capfd
):
  """A limit on the size of files stands in for the full disk."""
  mesh = _mesh(1, 2)
  values = {"x": np.random.default_rng(0).normal(size=(2, 50_000))}
  values = jax.tree.map(np.float32, values)
  first = checkpoints()
  first.save(1, _place(values, mesh), {})
  first.wait()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
  try:
    first.save(2, _place(values, mesh), {})
    first.save(3, _place(values, mesh), {})  # tells that 2 failed, and tries
    with pytest.raises(UserError, match=r"step 3 .*of step 1\. Free disk"):
      first.wait()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert {path.name for path in (tmp_path / "c").iterdir()} == {"1"}
  said = capfd.readouterr().err
  assert said.count("warning: the checkpoint of step") == 2
  assert "Traceback" not in said
  first.save(4, _place(values, mesh), {"of": 4})
  first.wait()
  arrays, metadata = checkpoints().restore(_abstract(mesh, values))
  assert metadata == {"of": 4}
  _assert_same_bits(arrays, values)


def test_a_write_that_nobody_waits_for_shows_no_traceback(tmp_path, caplog):
  """Whether asyncio tells it of a task or of a thread's future."""
  loop = asyncio.new_event_loop()

  def fails():
    return async_path.write_text(epath.Path(tmp_path / "absent" / "file"), "")

  def forget(future):
    loop.run_until_complete(asyncio.wait([future]))
    assert isinstance(future._exception, FileNotFoundError)

  forget(loop.create_task(fails()))
  forget(loop.run_in_executor(None, asyncio.run, fails()))
  gc.collect()
  assert not caplog.records
  forget(loop.run_in_executor(None, (tmp_path / "absent").read_text))
  gc.collect()
  loop.close()
  assert [record.name for record in caplog.records] == ["asyncio"]


def test_saves_what_was_there_though_the_buffer_is_donated_at_once(checkpoints):
  mesh = _mesh(1, 2)
  update = jax.jit(lambda x: x + 1, donate_argnums=0)
  x = jax.device_put(
    np.zeros((2, 1 << 20), np.float32), _sharding(mesh, tower_axis=True)
  )
  first = checkpoints()
  first.save(1, {"x": x}, {})
  for _ in range(20):
    x = update(x)
  first.wait()
  abstract = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
  arrays, _ = checkpoints().restore({"x": abstract})
  assert not np.asarray(arrays["x"]).any()
  assert (np.asarray(x) == 20).all()


def test_a_flipped_byte_in_any_file_is_never_believed(
  checkpoints, tmp_path, capfd
):
  """Either the newest is read bit for bit, or the one before it is."""
  mesh = _save_two(checkpoints)
  newest = tmp_path / "c" / "2"
  set_aside = 0
  for path in sorted(newest.rglob("*")):
    if not path.is_file() or not path.stat().st_size:
      continue
    whole = path.read_bytes()
    spoiled = bytearray(whole)
    spoiled[len(spoiled) // 2] ^= 0x10
    path.write_bytes(spoiled)
    arrays, metadata = checkpoints().restore(_abstract(mesh))
    _assert_same_bits(arrays, _values(metadata["of"]))
    if metadata["of"] == 1:
      set_aside += 1
      assert "damaged" in capfd.readouterr().err
      (tmp_path / "c" / "damaged-2").rename(newest)
    path.write_bytes(whole)
  assert set_aside >= 3  # arrays, their index, metadata


def test_readable_files_with_other_content_are_not_believed(
  checkpoints, tmp_path
):
  """What no parser notices: arrays of another step, one digit of the JSON."""
  mesh = _save_two(checkpoints, rate=0.01)
  folder = tmp_path / "c"
  shutil.copytree(folder / "2", tmp_path / "good")
  shutil.rmtree(folder / "2" / "arrays")
  shutil.copytree(folder / "1" / "arrays", folder / "2" / "arrays")
  _, metadata = checkpoints().restore(_abstract(mesh))
  assert metadata["of"] == 1
  shutil.copytree(tmp_path / "good", folder / "2")
  _, metadata = checkpoints().restore(_abstract(mesh))
  assert metadata["of"] == 2
  json_file = folder / "2" / "metadata" / "metadata"
  text = json_file.read_text()
  assert text.count("0.01") == 1
  json_file.write_text(text.replace("0.01", "0.02"))
  _, metadata = checkpoints().restore(_abstract(mesh))
  assert metadata == {"rate": 0.01, "of": 1}
  shutil.copytree(tmp_path / "good", folder / "3")  # under a wrong name
  _, metadata = checkpoints().restore(_abstract(mesh))
  assert metadata["of"] == 1


def test_a_missing_file_is_set_aside_and_its_step_can_come_again(
  checkpoints, tmp_path, capfd
):
  mesh = _save_two(checkpoints)
  for count in (1, 2):
    (tmp_path / "c" / "2" / "metadata" / "metadata").unlink()
    again = checkpoints()
    assert again.restore(_abstract(mesh))[1] == {"of": 1}
    assert "2 " in capfd.readouterr().err
    again.save(2, _place(_values(2), mesh), {"of": 2})
    again.wait()
    folders = {path.name for path in (tmp_path / "c").iterdir()}
    assert folders == {"1", "2", "damaged-2", "damaged-2-1"} - (
      {"damaged-2-1"} if count == 1 else set()
    )


def test_if_all_are_damaged_nothing_is_changed(checkpoints, tmp_path):
  """Set aside, they would leave a run that begins again at step 0."""
  mesh = _save_two(checkpoints)
  (tmp_path / "c" / "2" / "metadata" / "metadata").unlink()
  (tmp_path / "c" / "1" / "arrays" / "manifest.ocdbt").write_bytes(b"")
  (tmp_path / "c" / "3.orbax-checkpoint-tmp").mkdir()  # of a killed save
  before = sorted(map(str, tmp_path.rglob("*")))
  again = checkpoints()
  with pytest.raises(
    UserError,
    match=r"2 .metadata/metadata is missing.; 1 .*has 0 bytes instead",
  ):
    again.restore(_abstract(mesh))
  assert sorted(map(str, tmp_path.rglob("*"))) == before


def test_one_without_a_list_of_files_is_set_aside_only_if_its_sums_differ(
  checkpoints, tmp_path
):
  """Those of older versions have none; Orbax's errors prove nothing."""
  mesh = _save_two(checkpoints)
  newest = tmp_path / "c" / "2"
  (newest / "files.json").unlink()
  assert checkpoints().restore(_abstract(mesh))[1] == {"of": 2}
  index = newest / "arrays" / "manifest.ocdbt"
  content = index.read_bytes()
  index.write_bytes(content[: len(content) // 2])
  before = sorted(map(str, tmp_path.rglob("*")))
  with pytest.raises(UserError, match=r"checkpoint 2 .*could not be read here"):
    checkpoints().restore(_abstract(mesh))
  assert sorted(map(str, tmp_path.rglob("*"))) == before
  index.write_bytes(content)
  body = newest / "metadata" / "metadata"
  body.write_text(body.read_text().replace('"of": 2', '"of": 3'))
  assert checkpoints().restore(_abstract(mesh))[1] == {"of": 1}
  assert (tmp_path / "c" / "damaged-2").is_dir()


def test_files_that_are_as_saved_are_not_damaged_whatever_orbax_says(
  checkpoints, tmp_path
):
  """As if another version of Orbax had written them."""
  mesh = _mesh(1, 2)
  first = checkpoints()
  for step in (1, 2):
    versions = {"versions": {"orbax-checkpoint": "9.9"}}
    first.save(step, _place(_values(step), mesh), versions)
  first.wait()
  newest = tmp_path / "c" / "2"
  (newest / "arrays" / "manifest.ocdbt").write_bytes(b"the format of tomorrow")
  checkpoint_files.record(newest)
  with pytest.raises(UserError, match=r"those that were saved, .* 9\.9, and"):
    checkpoints().restore(_abstract(mesh))
  assert {path.name for path in (tmp_path / "c").iterdir()} == {"1", "2"}


def test_read_only_changes_nothing(checkpoints, tmp_path, capfd):
  mesh = _save_two(checkpoints)
  (tmp_path / "c" / "2" / "metadata" / "metadata").unlink()
  before = sorted(map(str, tmp_path.rglob("*")))
  _, metadata = checkpoints(read_only=True).restore(_abstract(mesh))
  assert metadata == {"of": 1}
  assert sorted(map(str, tmp_path.rglob("*"))) == before
  assert "left as it is" in capfd.readouterr().err


def test_another_network_and_another_format_are_refused_in_words(
  checkpoints, monkeypatch
):
  mesh = _mesh(1, 2)
  first = checkpoints()
  first.save(1, _place(_values(), mesh), METADATA)
  first.wait()
  other = _values()
  other["parameters"]["bias"] = np.zeros(8, np.float32)
  with pytest.raises(UserError, match=r"bias.*'float32', 7.*'float32', 8"):
    first.restore(_abstract(mesh, other))
  monkeypatch.setattr(checkpoint, "FORMAT", 2)
  with pytest.raises(UserError, match="format 1, this program reads format 2"):
    first.restore(_abstract(mesh))
  assert first.latest_step() == 1


def test_checksum_against_integers():
  """The sums by Python's own integers; bfloat16 and scalars included."""
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, 3, 4)).astype(np.float32)
  half = jnp.asarray(x, jnp.bfloat16)
  arrays = {"x": jnp.asarray(x), "half": half, "n": jnp.asarray(9, jnp.int32)}

  def expected(bits):
    bits = [int(b) for b in bits.reshape(-1)]
    weighted = sum(b * (i + 1) for i, b in enumerate(bits))
    return [sum(bits) % 2**32, weighted % 2**32]

  assert array_checksums.checksums(arrays) == {
    "['x']": expected(x.view(np.uint32)),
    "['half']": expected(np.asarray(half).view(np.uint16)),
    "['n']": [9, 9],
  }
