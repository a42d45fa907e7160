"""From a folder of pictures and a file of weights to predictions."""

import json

import cv2
import numpy as np
import pytest
from safetensors.numpy import save_file
from sample_data import command

COLOURS = {"red": (230, 40, 40), "green": (40, 230, 40), "blue": (40, 40, 230)}
NETWORK = (
  "--config=configs/finetune.py:torchvision",
  "--config.network.width=0.0625",
  "--config.network.crop_size=64",
  "--config.image_size=72",
)


def write_pictures(folder, per_class, seed):
  """A folder of pictures for each colour, with noise over it."""
  random = np.random.default_rng(seed)
  for name, colour in COLOURS.items():
    (folder / name).mkdir(parents=True)
    for i in range(per_class):
      noise = random.normal(0, 20, (90, 110, 3))
      rgb = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
      cv2.imwrite(str(folder / name / f"{i}.png"), rgb[..., ::-1])


def write_weights(path):
  """Random weights in torchvision's layout, 1/16 of its width, 1000 classes."""
  random = np.random.default_rng(0)
  shapes = {
    "features.0": (4, 3, 11, 11),
    "features.3": (12, 4, 5, 5),
    "features.6": (24, 12, 3, 3),
    "features.8": (16, 24, 3, 3),
    "features.10": (16, 16, 3, 3),
    "classifier.1": (256, 16),
    "classifier.4": (256, 256),
    "classifier.6": (1000, 256),
  }
  arrays = {}
  for name, shape in shapes.items():
    deviation = np.sqrt(2 / np.prod(shape[1:]))
    arrays[f"{name}.weight"] = random.normal(0, deviation, shape)
    arrays[f"{name}.bias"] = np.zeros(shape[0])
  save_file({k: v.astype(np.float32) for k, v in arrays.items()}, path)
  return arrays


def succeed(module, *arguments):
  result = command(module, *map(str, arguments))
  assert result.returncode == 0, result.stderr
  return result.stdout


@pytest.mark.slow
def test_from_a_folder_and_a_file_to_predictions(tmp_path):
  write_pictures(tmp_path / "pictures", 20, seed=1)
  write_pictures(tmp_path / "unseen", 4, seed=2)
  file, data, run = (tmp_path / name for name in ("x.safetensors", "d", "run"))
  write_weights(file)
  succeed(
    "prepare",
    f"--source=folder:{tmp_path / 'pictures'}",
    f"--data_dir={data}",
    "--holdout=0.2",
  )
  training = (
    *NETWORK,
    f"--workdir={run}",
    f"--config.data_dir={data}",
    f"--config.start_from={file}",
    "--config.optimizer.layer_rates=(('conv1', 0.0), ('fc8', 10.0))",
    "--config.batch_size=16",
    "--config.total_epochs=20",
    "--config.schedule.learning_rate=0.005",
  )
  refused = command("main", *training)
  assert refused.returncode == 2
  assert "--config.num_classes=3" in refused.stderr
  assert not run.exists()
  printed = succeed("main", *training, "--config.num_classes=3")
  assert f"starts from {file}: conv1, conv2, conv3, conv4, conv5" in printed
  succeed("evaluate", f"--workdir={run}", f"--json={tmp_path / 'e.json'}")
  found = json.loads((tmp_path / "e.json").read_text())
  assert found["top1_error"] == 0
  succeed(
    "predict",
    f"--workdir={run}",
    f"--json={tmp_path / 'p.json'}",
    tmp_path / "unseen",
  )
  predictions = json.loads((tmp_path / "p.json").read_text())
  assert len(predictions) == 12
  for one in predictions:
    assert f"/{one['classes'][0]['name']}/" in one["image"]
