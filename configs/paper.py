"""The paper, to the letter, on ILSVRC-2012.

  python -m alexnet_jax.main --config=configs/paper.py --config.data_dir=DIR

Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional
Neural Networks, NIPS 2012. Ninety epochs took the authors five to six days on
two GTX 580. Table 2 ("1 CNN") has validation errors of 40.7% top-1 and 18.2%
top-5 with ten views. They belong to the recipe of the 2012 source
(`original2012.py`); what the text's recipe reaches has not been measured.

Where the text is silent or contradicts itself, the 2012 source decides: conv1's
padding, lighting by the square root of the eigenvalue, 33 x 33 crop positions.
The learning rate drops at the epochs of the authors' log; the rule of the text,
which follows the validation error, is `schedule.name = "plateau"`.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from alexnet_jax.model import network as networks
from alexnet_jax.model.network import Layer, Network


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.seed = 0
  # One for each purpose. "shared": one for all, as of runs begun before.
  config.random_streams = "separate"
  config.batch_size = 128  # section 5
  config.total_epochs = 90  # section 5: "roughly 90 cycles"
  config.total_steps = 0  # 0: from total_epochs

  config.dataset = "imagenet2012"
  config.data_dir = ""  # "": the default folder of tfds
  config.splits = ConfigDict()
  config.splits.train = "train"
  config.splits.validation = "validation"
  config.splits.test = "validation"  # the test labels were never published
  config.num_classes = 1000
  config.holdout = 0  # training images held out for validation
  config.max_undecodable = 0  # number of images that may be skipped
  config.input_threads = 0  # that load batches; 0: as many as the CPU quota

  # A run, or a file of weights, to copy start_layers from (finetune.py).
  config.start_from = ""
  config.start_layers = ("conv1", "conv2", "conv3", "conv4", "conv5")
  config.start_checkpoint = "newest"  # of that run; or "best", or a step
  # Whether to subtract the mean image of start_from; else this dataset's.
  config.start_mean_image = False

  config.image_size = 256  # section 2: short side 256, then the centre
  # Section 2: "subtracting the mean activity ... from each pixel". False: each
  # crop loses its own part of the mean image; True: the centre of it.
  config.centre_mean = False
  # The inputs: (pixel / divisor - mean) / deviation, in the order rgb or bgr.
  config.pixels = ConfigDict()
  # Section 2: "crop". Or "warp": both sides; "torchvision", "caffe": as these
  # do it (alexnet_jax/data/images.py).
  config.pixels.rescale = "crop"
  config.pixels.order = "rgb"
  config.pixels.divisor = 1.0
  config.pixels.mean = ()  # (red, green, blue); (): the mean image
  config.pixels.deviation = ()  # (red, green, blue); (): 1
  config.augmentation = ConfigDict()  # section 4.1
  config.augmentation.crop = True  # random 224 x 224 of 256 x 256
  config.augmentation.flip = True  # horizontal reflections
  config.augmentation.shared_by = 1  # consecutive images with the same crop
  config.augmentation.lighting = 0.1  # standard deviation, along RGB's PCA
  config.augmentation.lighting_divisor = 1.0  # divides images after lighting
  config.augmentation.lighting_until = 0.0  # epoch; 0: until the end
  config.augmentation.colour = 0.0  # random brightness, contrast, saturation
  # Share of the images that are .75 themselves and .25 another one.
  config.augmentation.mixing = 0.0

  # Figure 2. alexnet_jax/model/network.py has every key, its value and its
  # section.
  config.network = ConfigDict(networks.to_dict(Network()))

  config.optimizer = ConfigDict()  # section 5
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4
  config.optimizer.l1 = 0.0  # not in the paper: pulls weights to exactly 0
  config.optimizer.layer_weight_decay = ()  # such as (("fc8", 1.0),)
  config.optimizer.layer_rates = ()  # factors, such as (("conv1", 0.1),)
  config.optimizer.decay_biases = False  # as the 2012 source
  config.schedule = ConfigDict()
  # "plateau": the paper's rule; "log145_2012" and "log145_2010": what the
  # authors did by hand; "dexp": the rule of their later runs; "cosine": ours.
  config.schedule.name = "piecewise"
  config.schedule.learning_rate = 0.01  # section 5, divided by 10 three times
  config.schedule.bias_learning_rate = 0.01  # "equal ... for all layers"
  config.schedule.bias_drops = "all"  # as the weights; or "once", "never"
  config.schedule.conv1_frozen_from = 0.0  # epoch; 0: never
  # For "piecewise": the epochs of the drops, from the authors' log.
  config.schedule.boundaries = (25.0, 51.0, 79.0)
  # For "plateau": evaluations without a new best error before each drop, and
  # the number of drops.
  config.schedule.patience = 3
  config.schedule.drops = 3
  # For "cosine": epochs in which the rate rises, step by step, before it falls.
  config.schedule.warmup_epochs = 0.0

  config.mesh = ConfigDict()
  config.mesh.data = 0  # 0: as many devices as there are
  config.mesh.model = 0  # 2: one tower per device; 1: both; 0: 2 if possible

  config.log_every_steps = 20
  # Measure the network's inside (docs/plateau.md) at every fifth training line
  # of metrics.jsonl; 0: never.
  config.diagnose_every_lines = 5
  config.eval_every_epochs = 1.0
  # Evaluations without a lower validation error before the run ends; 0: it
  # never ends early.
  config.early_stopping = 0
  config.checkpoint_every_steps = 1000  # 0: after evaluations only
  config.checkpoints_to_keep = 2  # the newest ones; the best is always kept
  config.stall_minutes = 10.0  # without a step, before a warning; 0: never
  config.report_at_end = False  # write report.html, print what to do next
  return config


def layer(features: int, **options: Any) -> ConfigDict:
  """A layer of the network group; see `alexnet_jax.model.network.Layer`.

  Args:
    features: kernels or units of one tower; 0: the network has no such layer.
    **options: the other fields of `Layer`.
  """
  return ConfigDict(dataclasses.asdict(Layer(features, **options)))
