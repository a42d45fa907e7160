"""The prepare command, up to a network that is trained on its result."""

import io
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from PIL import Image
from sample_data import (
  ROOT,
  command,
  jpeg,
  make,
  manifest,
  picture,
  png_header,
  run,
  write_folder,
  write_tars,
)

from alexnet_jax.data import preparing
from alexnet_jax.runtime.command import UserError


@pytest.mark.parametrize(
  ("source", "message"),
  [
    ("zip:x", "must be one of tars:DIR, folder:DIR, tfds:NAME, par"),
    ("tars:", "must be one of"),
    ("tars:/nonexistent", "folder /nonexistent does not exist"),
    ("tars:{tmp}", "ILSVRC2012_img_train.tar"),
    ("folder:{tmp}", "has no class folders"),
    ("tfds:nothing", "tfds build nothing"),
  ],
)
def test_wrong_sources_are_explained(tmp_path, source, message):
  with pytest.raises(UserError, match=re.escape(message)):
    preparing.open_originals(source.format(tmp=tmp_path))


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (["--source=zip:x", "--data_dir=/nonexistent"], "zip:x must be one of"),
    (["--source=folder:/tmp"], "--data_dir is missing"),
    pytest.param(
      ["--check", "--limit=2", "--data_dir=/tmp"],
      "--limit would have no effect with --check",
      marks=pytest.mark.slow,
    ),
    pytest.param(
      ["--data_dir=/nonexistent"], "--source is missing", marks=pytest.mark.slow
    ),
  ],
)
def test_errors_are_one_paragraph(arguments, message):
  result = run(*arguments)
  assert result.returncode == 2
  assert message in result.stderr
  assert "Traceback" not in result.stderr
  assert result.stderr.count("\n") == 1


def write_odd(folder):
  """A folder whose class "ash" has files of every unusual kind."""
  place = write_folder(folder) / "train" / "ash"

  def save(name, image, file_format, **options):
    file = io.BytesIO()
    Image.fromarray(image).save(file, file_format, **options)
    (place / name).write_bytes(file.getvalue())

  cmyk = io.BytesIO()
  Image.fromarray(picture(1)).convert("CMYK").save(cmyk, "JPEG")
  (place / "cmyk.jpg").write_bytes(cmyk.getvalue())
  save("grey.jpg", picture(2)[..., 0], "JPEG")
  save("png.jpg", picture(3), "PNG")
  save("line.png", picture(4, 1, 20_000), "PNG")
  save("column.jpg", picture(5, 20_000, 3), "JPEG")
  turned = Image.Exif()
  turned[0x0112] = 6
  save("turned.jpg", picture(6), "JPEG", exif=turned)
  (place / "cut.jpg").write_bytes(jpeg(7)[:900])
  (place / "empty.jpg").write_bytes(b"")
  (place / "notes.txt").write_text("not an image")
  (place / "bomb.png").write_bytes(png_header(30_000, 30_000))
  (folder / "train" / "nothing").mkdir()
  (place / "folder").mkdir()
  (place / "folder" / "below.jpg").write_bytes(jpeg(8))
  (place / "link.jpg").symlink_to("nowhere")
  return folder


def test_unusual_images_are_converted_or_listed(tmp_path):
  folder = write_odd(tmp_path / "in")
  result = run(f"--source=folder:{folder}", f"--data_dir={tmp_path / 'out'}")
  assert result.returncode == 0, result.stderr
  (name,) = os.listdir(tmp_path / "out")
  assert name == "in_256"
  stored = manifest(tmp_path / "out" / name / "1.0.0")
  train = stored["splits"]["train"]
  skipped = {
    pathlib.Path(s["name"]).name: s["reason"] for s in train["skipped"]
  }
  assert sorted(skipped) == ["bomb.png", "cut.jpg", "empty.jpg", "notes.txt"]
  assert "900000000 pixels" in skipped["bomb.png"]
  assert all(skipped.values())
  assert train["classes"] == {"ash": 6 + 7, "elm": 6, "oak": 6}
  left_out = "\n".join(stored["plan"]["left_out"])
  assert "nothing holds no image" in left_out
  assert "ash/link.jpg is no file" in left_out
  assert "Traceback" not in result.stderr
  assert "4 skipped" in result.stdout
  assert "skipped: " in result.stdout
  assert "; manifest.json lists all" in result.stdout


def test_a_full_disk_is_explained_and_the_command_can_be_repeated(tmp_path):
  write_folder(tmp_path / "in", per_class=12)
  arguments = (
    f"--source=folder:{tmp_path / 'in'}",
    f"--data_dir={tmp_path / 'out'}",
  )
  limited = ["bash", "-c", 'ulimit -f 300; exec "$@"', "-", sys.executable]
  result = subprocess.run(
    [*limited, "-m", "alexnet_jax.prepare", *arguments],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert result.returncode == 2, result.stderr
  assert "Traceback" not in result.stderr
  assert "failed" in result.stderr
  assert "run the same command again" in result.stderr
  assert not (tmp_path / "out" / "in_256").exists()
  make(f"folder:{tmp_path / 'in'}", tmp_path / "out", "in_256")


@pytest.mark.slow
def test_from_two_tars_to_a_trained_and_evaluated_network(tmp_path):
  """As in README: prepare, train two steps, evaluate."""
  write_tars(tmp_path / "tars")
  data = [
    "--source=tars:" + str(tmp_path / "tars"),
    "--data_dir=" + str(tmp_path),
  ]
  result = run(*data)
  assert result.returncode == 0, result.stderr
  # The summary names the flags for training.
  flags = re.findall(r"--config\.\S+", result.stdout)
  assert "--config.dataset=imagenet2012_256" in flags
  workdir = f"--workdir={tmp_path / 'run'}"
  trained = command(
    "main",
    "--config=configs/quickstart.py",
    workdir,
    *flags,
    "--config.num_classes=1000",
    "--config.network.width=0.03125",
    "--config.batch_size=4",
    "--config.total_steps=2",
    "--config.log_every_steps=1",
    "--config.report_at_end=False",
  )
  assert trained.returncode == 0, trained.stderr
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  steps = [json.loads(line) for line in lines]
  assert [line["step"] for line in steps if line["split"] == "train"] == [1, 2]
  report = tmp_path / "report.json"
  evaluated = command("evaluate", workdir, "--views=1", f"--json={report}")
  assert evaluated.returncode == 0, evaluated.stderr
  found = json.loads(report.read_text())
  assert found["num_examples"] == 6
  assert 0 <= found["top5_error"] <= found["top1_error"] <= 1
  assert found["loss"] > 0
