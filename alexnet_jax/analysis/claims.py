"""The paper's numbers and the authors' own log of them, as data.

The log is the one that the authors kept beside their layer files and released
in 2024 with the source (`layer-params-145` and its like). It has six digits
where the paper prints three; the difference of two logged numbers is written
as the two.
"""

from typing import NamedTuple


class Net(NamedTuple):
  """What would have to be trained and evaluated for a number of ours.

  Attributes:
    configs: of configs/, any of which will do.
    dataset: tfds name, without the "_256" of a prepared set.
    views: 1 or 10.
    less: the configurations whose error is subtracted, for a difference.
    nets: networks that are averaged.
    pretrained: of these, networks with the sixth convolutional layer.
  """

  configs: tuple[str, ...]
  dataset: str
  views: int = 10
  less: tuple[str, ...] = ()
  nets: int = 1
  pretrained: int = 0


class Claim(NamedTuple):
  """One number of the paper.

  Attributes:
    key: its name, by which a result of ours refers to it.
    where: table or section.
    what: it is about.
    measure: what is counted: "top-1 error", "parameters", ...
    paper: as printed.
    unit: "%" (ours is a fraction), "points" (of a difference of errors, ours a
      difference of fractions) or "".
    logged: the authors' six digits; of two, the first less the second.
    run: the entries of their log.
    note: what to know before comparing.
    net: how ours comes from trained networks, if it does.
  """

  key: str
  where: str
  what: str
  measure: str
  paper: str
  unit: str = ""
  logged: tuple[str, ...] = ()
  run: str = ""
  note: str = ""
  net: Net | None = None


def _pair(key, where, what, paper, logged=((), ()), net=None, **other):
  """The two claims about top-1 and top-5 error; "" where none is printed."""
  return [
    Claim(
      f"{key}.top{k}",
      where,
      what,
      f"top-{k} error",
      text,
      logged=log,
      net=net,
      **{"unit": "%"} | other,
    )
    for k, text, log in zip((1, 5), paper, logged, strict=True)
    if text
  ]


_PLAIN = ("original2012", "paper")
_2010 = Net(_PLAIN, "imagenet2010")
_2012 = Net(_PLAIN, "imagenet2012")
_OTHERS = "another method's, for comparison"
_CHAIN = (
  "conv layers descend from run 145, which had seen ILSVRC-2012, by way of"
  " 146-2009 and 146-2011"
)
_TUNED = "the weights of the networks may have been tuned on these very images"
_SERVER = "the labels were never published; the server counted"

ERRORS: tuple[Claim, ...] = (
  *_pair(
    "table1.sparse_coding",
    "Table 1",
    "sparse coding, ILSVRC-2010 test",
    ("47.1", "28.2"),
    note=_OTHERS,
  ),
  *_pair(
    "table1.sift_fv",
    "Table 1",
    "SIFT + Fisher vectors, ILSVRC-2010 test",
    ("45.7", "25.7"),
    note=_OTHERS,
  ),
  *_pair(
    "table1.cnn",
    "Table 1",
    "CNN, ILSVRC-2010 test, ten views",
    ("37.5", "17.0"),
    (("0.374727",), ("0.169987",)),
    run="145-2010",
    net=_2010,
  ),
  Claim(
    "table2.sift_fv.test.top5",
    "Table 2",
    "SIFT + Fisher vectors, ILSVRC-2012 test",
    "top-5 error",
    "26.2",
    "%",
    note=_OTHERS,
  ),
  *_pair(
    "table2.1_cnn",
    "Table 2",
    "1 CNN, ILSVRC-2012 validation",
    ("40.7", "18.2"),
    (("0.406640",), ("0.182100",)),
    run="145",
    net=_2012,
  ),
  *_pair(
    "table2.5_cnns",
    "Table 2",
    "5 CNNs, ILSVRC-2012 validation",
    ("38.1", "16.4"),
    note=_TUNED,
    net=_2012._replace(nets=5),
  ),
  Claim(
    "table2.5_cnns.test.top5",
    "Table 2",
    "5 CNNs, ILSVRC-2012 test",
    "top-5 error",
    "16.4",
    "%",
    note=_SERVER,
  ),
  *_pair(
    "table2.1_cnn_star",
    "Table 2",
    "1 CNN*, pre-trained, ILSVRC-2012 validation",
    ("39.0", "16.6"),
    (("0.389900",), ("0.166220",)),
    run="146-2012-2011",
    note=_CHAIN,
    net=_2012._replace(pretrained=1),
  ),
  *_pair(
    "table2.7_cnns_star",
    "Table 2",
    "7 CNNs*, ILSVRC-2012 validation",
    ("36.7", "15.4"),
    note=_TUNED,
    net=_2012._replace(nets=7, pretrained=2),
  ),
  Claim(
    "table2.7_cnns_star.test.top5",
    "Table 2",
    "7 CNNs*, ILSVRC-2012 test",
    "top-5 error",
    "15.3",
    "%",
    note=_SERVER,
  ),
  Claim(
    "relu.speedup",
    "3.1, Figure 1",
    "tanh's epochs to 25% training error over ReLU's, CIFAR-10",
    "ratio",
    "6",
    note="the paper does not say which four layers, nor the rates",
  ),
  *_pair(
    "two_gpus",
    "3.2",
    "one GPU with half the kernels, less two GPUs",
    ("1.7", "1.2"),
    (("0.391680", "0.374727"), ("0.182287", "0.169987")),
    unit="points",
    run="145-half - 145-2010",
    note="the half net kept conv5 at 256 and its 4096 units: 59,798,312"
    " parameters against 60,965,224",
    net=_2010._replace(configs=("half",), less=_PLAIN),
  ),
  *_pair(
    "lrn",
    "3.3",
    "without response normalisation, less with it",
    ("1.4", "1.2"),
    (("0.420340", "0.406640"), ("0.193620", "0.182100")),
    unit="points",
    run="148 - 145",
    note="148 lacks three norms, one of which the paper does not mention",
    net=_2012._replace(configs=("no_norms_148", "no_lrn"), less=_PLAIN),
  ),
  Claim(
    "lrn.cifar10.without",
    "3.3",
    "four-layer CNN on CIFAR-10, no normalisation",
    "test error",
    "13",
    "%",
    run="conv-local-13pct",
  ),
  Claim(
    "lrn.cifar10.with",
    "3.3",
    "four-layer CNN on CIFAR-10, normalised",
    "test error",
    "11",
    "%",
    run="conv-local-11pct",
    note="also a wider third layer, more decay, and 520 epochs, not 160",
  ),
  *_pair(
    "pooling",
    "3.4",
    "pooling 2/2, less overlapping 3/2",
    ("0.4", "0.3"),
    (("0.410580", "0.406640"), ("0.185100", "0.182100")),
    unit="points",
    run="147 - 145",
    note="within the log's own run-to-run spread of 0.1 to 0.2 points",
    net=_2012._replace(configs=("no_overlap",), less=_PLAIN),
  ),
  *_pair(
    "one_view",
    "4.1",
    "one view instead of ten, ILSVRC-2010 test",
    ("39.0", "18.3"),
    (("0.390247",), ("0.182953",)),
    run="145-2010, centre patch",
    net=_2010._replace(views=1),
  ),
  Claim(
    "lighting.top1",
    "4.1",
    "without lighting noise, less with it",
    "top-1 error",
    "1",
    "points",
    note='"over 1%"; no run is logged',
    net=_2012._replace(configs=("no_lighting",), less=_PLAIN),
  ),
  Claim(
    "dropout.iterations",
    "4.2",
    "iterations to converge with dropout over those without",
    "ratio",
    "2",
    note='"roughly doubles"; no run is logged',
  ),
  *_pair(
    "imagenet2009.before",
    "6",
    "best published before, ImageNet 2009",
    ("78.1", "60.9"),
    note=_OTHERS,
  ),
  *_pair(
    "imagenet2009.cnn",
    "6",
    "six convolutional layers, ImageNet 2009",
    ("67.4", "40.9"),
    note="no entry of the log matches; the nearest, without the sixth layer,"
    " are 0.693822 and 0.436466 (2009-101)",
  ),
  Claim(
    "depth.top1",
    "7",
    "a middle layer removed, less the whole network",
    "top-1 error",
    "2",
    "points",
    note='"about 2%"; no run is logged',
    net=_2012._replace(configs=("no_conv3", "no_conv4"), less=_PLAIN),
  ),
)


def _sizes() -> tuple[Claim, ...]:
  """What the text says of sizes and settings; ours is in configs/paper.py."""
  rows = [
    ("parameters", "1", "the network", "parameters", "60000000", ""),
    ("neurons", "1", "the network", "neurons", "650000", ""),
    ("neurons.input", "3.5", "input", "neurons", "150528", ""),
    (
      "neurons.conv1",
      "Figure 2",
      "conv1",
      "neurons",
      "253440",
      "55 x 55 x 96 is 290,400",
    ),
    ("neurons.conv2", "Figure 2", "conv2", "neurons", "186624", ""),
    ("neurons.conv3", "Figure 2", "conv3", "neurons", "64896", ""),
    ("neurons.conv4", "Figure 2", "conv4", "neurons", "64896", ""),
    ("neurons.conv5", "Figure 2", "conv5", "neurons", "43264", ""),
    ("neurons.fc6", "Figure 2", "fc6", "neurons", "4096", ""),
    ("neurons.fc7", "Figure 2", "fc7", "neurons", "4096", ""),
    ("neurons.fc8", "Figure 2", "fc8", "neurons", "1000", ""),
    ("kernels.conv1", "3.5", "conv1", "kernels", "96", ""),
    ("kernels.conv2", "3.5", "conv2", "kernels", "256", ""),
    ("kernels.conv3", "3.5", "conv3", "kernels", "384", ""),
    ("kernels.conv4", "3.5", "conv4", "kernels", "384", ""),
    ("kernels.conv5", "3.5", "conv5", "kernels", "256", ""),
    ("lrn_k", "3.3", "response normalisation", "k", "2", ""),
    ("lrn_n", "3.3", "response normalisation", "n", "5", ""),
    (
      "lrn_alpha",
      "3.3",
      "response normalisation",
      "alpha",
      "0.0001",
      "the source divides it by n",
    ),
    ("lrn_beta", "3.3", "response normalisation", "beta", "0.75", ""),
    ("pool_stride", "3.4", "overlapping pooling", "s", "2", ""),
    ("pool_size", "3.4", "overlapping pooling", "z", "3", ""),
    (
      "crops",
      "4.1",
      "crops and reflections of an image",
      "factor",
      "2048",
      "32 x 32 x 2; the source has 33 x 33 x 2 = 2,178",
    ),
    ("lighting", "4.1", "lighting noise", "deviation", "0.1", ""),
    ("dropout_rate", "4.2", "dropout", "probability", "0.5", ""),
    ("batch_size", "5", "update", "examples", "128", ""),
    ("momentum", "5", "update", "momentum", "0.9", ""),
    ("weight_decay", "5", "update", "decay", "0.0005", ""),
    ("learning_rate", "5", "update", "first rate", "0.01", ""),
    ("drops", "5", "update", "divisions by 10", "3", ""),
    (
      "std",
      "5",
      "initial weights",
      "deviation",
      "0.01",
      "the source has 0.03 in conv3 to conv5",
    ),
    ("epochs", "5", "training", "cycles", "90", '"roughly"'),
  ]
  return tuple(
    Claim(f"size.{key}", where, what, measure, paper, note=note)
    for key, where, what, measure, paper, note in rows
  )


CLAIMS: tuple[Claim, ...] = ERRORS + _sizes()
