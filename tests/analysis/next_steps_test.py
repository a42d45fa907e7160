"""What a finished run offers next: files that exist and commands that work."""

import re

import numpy as np
import simplejpeg

from alexnet_jax.analysis import next_steps, sections
from alexnet_jax.data.sources import Source


def _jpeg(value):
  return simplejpeg.encode_jpeg(np.full((8, 8, 3), value, np.uint8), 90)


def test_pictures_are_those_of_the_first_classes(tmp_path, monkeypatch):
  """Labels 0 to 11 in turn; the grey value of a picture tells its label."""
  monkeypatch.setattr(next_steps, "PER_CLASS", 2)
  monkeypatch.setattr(sections, "report", lambda workdirs: "<html>")
  images = [(_jpeg(20 * (i % 12)), i % 12) for i in range(60)]
  names = [f"class/{i}" for i in range(12)]
  source = Source(images, names, "x:1", "x")
  monkeypatch.setattr(next_steps.runs, "open_split", lambda *_: source)
  text = next_steps.write(str(tmp_path), {"dataset": "x"}, "quickstart")

  folders = sorted((tmp_path / "pictures").iterdir())
  assert [folder.name for folder in folders] == [
    f"class_{i}" for i in range(10)
  ]
  for i, folder in enumerate(folders):
    files = sorted(folder.iterdir())
    assert [file.name for file in files] == ["1.jpg", "2.jpg"]
    for file in files:
      decoded = simplejpeg.decode_jpeg(file.read_bytes())
      assert abs(decoded.mean() - 20 * i) < 3
  assert (tmp_path / "report.html").read_text() == "<html>"
  # Each file that is named exists, and none is written a second time.
  for path in re.findall(rf"{tmp_path}\S*", text):
    assert (tmp_path / path).exists(), path
  assert "--config.num_classes=10" in text
  # README's commands prepare into data and train in runs/finetune_quickstart.
  folders = re.findall(r"--(?:config.)?(?:data_dir|workdir)=(\S+)", text)
  assert folders.count("data/example") == 2
  assert "runs/finetune_example" in folders and "data" not in folders
  before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
  assert next_steps.write(str(tmp_path), {"dataset": "x"}, "quickstart") == text
  after = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
  assert after == before
