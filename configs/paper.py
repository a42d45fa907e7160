"""The text of the paper, on ILSVRC-2012.

  python -m alexnet_jax.main --config=configs/paper.py --config.data_dir=DIR

Krizhevsky, Sutskever, Hinton: ImageNet Classification with Deep Convolutional
Neural Networks, NIPS 2012. Ninety epochs took the authors five to six days on
two GTX 580. Validation error to expect: 40.7% top-1 and 18.2% top-5 over ten
views (Table 2, "1 CNN"); not yet measured here.

Where the text is silent or contradicts itself the source decides: conv1's
padding, lighting by the square root of the eigenvalue, 33 x 33 positions of a
crop. And the rate falls at the epochs of the authors' log; the rule that the
text gives, by the validation error, is `schedule.name = "plateau"`.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
  config = ConfigDict()
  config.seed = 0
  config.batch_size = 128  # section 5
  config.total_epochs = 90  # section 5: "roughly 90 cycles"
  config.total_steps = 0  # 0: from total_epochs

  config.dataset = "imagenet2012"
  config.data_dir = ""  # "": where tfds keeps its data sets
  config.splits = ConfigDict()
  config.splits.train = "train"
  config.splits.validation = "validation"
  config.splits.test = "validation"  # the test labels were never published
  config.num_classes = 1000
  config.holdout = 0  # training images kept for choosing; the paper kept none
  config.max_undecodable = 0  # images that may be skipped

  config.start_from = ""  # the workdir of a run whose layers begin this one
  config.start_layers = ("conv1", "conv2", "conv3", "conv4", "conv5")

  config.image_size = 256  # section 2: short side 256, then the centre
  # Section 2: "subtracting the mean activity ... from each pixel". True: the
  # centre of the mean image from every crop, wherever it is.
  config.centre_mean = False
  config.augmentation = ConfigDict()  # section 4.1
  config.augmentation.crop = True  # random 224 x 224 of 256 x 256
  config.augmentation.flip = True  # horizontal reflections
  config.augmentation.shared_by = 1  # images in a row of one crop and flip
  config.augmentation.lighting = 0.1  # along the components of RGB
  config.augmentation.lighting_divisor = 1.0  # of images after lighting
  config.augmentation.lighting_until = 0.0  # epoch; 0: to the end

  config.network = _figure2()

  config.optimizer = ConfigDict()  # section 5
  config.optimizer.momentum = 0.9
  config.optimizer.weight_decay = 5e-4
  config.optimizer.layer_weight_decay = ()  # such as (("fc8", 1.0),)
  config.optimizer.decay_biases = False  # the text does not say
  config.schedule = ConfigDict()
  # or "plateau", the paper's own rule, "log145_2012" and "log145_2010", what
  # the authors did by hand, "dexp", what they let the program do later
  config.schedule.name = "piecewise"
  config.schedule.learning_rate = 0.01  # section 5, divided by 10 three times
  config.schedule.bias_learning_rate = 0.01  # "equal for all layers"
  config.schedule.bias_drops = "all"  # with the weights; or "once", "never"
  config.schedule.conv1_frozen_from = 0.0  # epoch; 0: never
  # piecewise: when; these epochs are the authors' log of this network
  config.schedule.boundaries = (25.0, 51.0, 79.0)
  # plateau: after so many evaluations without a new best error, so many times
  config.schedule.patience = 3
  config.schedule.drops = 3

  config.mesh = ConfigDict()
  config.mesh.data = 0  # 0: fit
  config.mesh.model = 0  # 2: one tower a device; 1: both on each

  config.log_every_steps = 20
  # Training lines between two that look inside (docs/plateau.md); 0: never.
  config.diagnose_every_lines = 5
  config.eval_every_epochs = 1
  config.checkpoint_every_steps = 1000  # 0: after evaluations only
  config.checkpoints_to_keep = 2  # the newest, beside the best
  config.stall_minutes = (
    10.0  # without a step: say what is waited for; 0: never
  )
  return config


def _figure2() -> ConfigDict:
  """Figure 2; sizes are one tower's."""
  network = ConfigDict()
  network.towers = 2  # section 3.2
  network.width = 1.0
  network.crop_size = 224
  network.channels = 3
  network.exchanges = ("conv3", "fc6", "fc7", "fc8")  # section 3.2
  network.exchange_dtype = "float32"  # or bfloat16, float16: half the traffic
  network.compute_dtype = "float32"  # or bfloat16
  # Every weight is normal with a deviation of 0.01, biases are 1 in conv2,
  # conv4, conv5, fc6 and fc7, and 0 elsewhere (section 5).
  network.conv1 = layer(
    48, size=11, stride=4, padding=(0, 3), then=("relu", "lrn", "pool")
  )
  network.conv2 = layer(
    128, size=5, padding=(2, 2), bias=1.0, then=("relu", "lrn", "pool")
  )
  network.conv3 = layer(192, size=3, padding=(1, 1))
  network.conv4 = layer(192, size=3, padding=(1, 1), bias=1.0)
  network.conv5 = layer(
    128, size=3, padding=(1, 1), bias=1.0, then=("relu", "pool")
  )
  network.conv6 = layer(0)  # none
  network.fc6 = layer(2048, bias=1.0, then=("relu", "dropout"))
  network.fc7 = layer(2048, bias=1.0, then=("relu", "dropout"))
  network.fc8_std = 0.01
  network.lrn_k = 2.0  # section 3.3
  network.lrn_n = 5
  network.lrn_alpha = 1e-4
  network.lrn_beta = 0.75
  # "within_map_norm" may follow a layer; the authors' source has it, the paper
  # does not.
  network.within_map_k = 1.0
  network.within_map_n = 5
  network.within_map_alpha = 1e-3 / 25
  network.within_map_beta = 0.75
  network.pool_size = 3  # section 3.4: overlapping
  network.pool_stride = 2
  network.pool_overhang = True  # may the last window hang over the edge?
  network.dropout_rate = 0.5  # section 4.2
  network.dropout_inverted = False
  return network


def layer(
  features: int,
  size: int = 0,
  stride: int = 1,
  padding: tuple[int, int] = (0, 0),
  groups: int = 1,
  local: bool = False,
  std: float = 0.01,
  bias: float = 0.0,
  then: tuple[str, ...] = ("relu",),
) -> ConfigDict:
  """A layer of the network, as `alexnet_jax.model.network.Layer` has it."""
  return ConfigDict(
    {
      "features": features,  # 0: no such layer
      "size": size,  # 0: fully connected
      "stride": stride,
      "padding": padding,
      "groups": groups,
      "local": local,  # every place its own kernels
      "std": std,
      "bias": bias,
      "then": then,
    }
  )
