"""Batch normalisation instead of LRN, after every layer except fc8.

60,984,360 parameters. It precedes the ReLU and, as LRN, stays inside a tower.
"""

from configs import paper


def get_config():
  config = paper.get_config()
  for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7"):
    then = [step for step in config.network[name].then if step != "lrn"]
    config.network[name].then = ("batch_norm", *then)
  return config
