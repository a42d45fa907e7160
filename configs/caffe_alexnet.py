"""Caffe's bvlc_alexnet: one tower, grouped convolutions; its LRN sees all maps.

60,965,224 parameters. As Caffe's script does, it rescales both sides to 256, so
it needs images that are not prepared, or prepared with `--rescale=caffe`. Its
published weights can be evaluated with this configuration (docs/weights.md).
"""

from configs import one_tower


def get_config():
  config = one_tower.get_config()
  network = config.network
  network.crop_size, network.conv1.padding = 227, (0, 0)
  for name in ("conv2", "conv4", "conv5"):
    network[name].groups = 2
  for name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
    network[name].bias = 0.1  # its authors: 1 did not train
  network.fc6.std = network.fc7.std = 0.005
  network.lrn_k, network.lrn_alpha = 1.0, 1e-4 / 5
  network.dropout_inverted = True
  config.pixels.rescale, config.pixels.order = "caffe", "bgr"
  config.augmentation.lighting = 0.0
  config.batch_size = 256
  config.schedule.boundaries = (20.0, 40.0, 60.0, 80.0)  # each 100,000 steps
  config.schedule.bias_learning_rate = 0.02
  return config
