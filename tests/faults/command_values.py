"""Command lines with one generated value, and whether each is legal.

What is legal stands here a second time, by kind of key, so that a test of the
commands can fail in both directions.
"""

import sys
from typing import NamedTuple

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st


class Line(NamedTuple):
  """A command line.

  Attributes:
    module: of the command.
    arguments: flags and words.
    legal: whether it must be accepted; else it must be refused.
    named: the key that the message of a refusal must contain.
  """

  module: str
  arguments: tuple[str, ...]
  legal: bool
  named: str = ""


# Kinds of values: what is legal, and what is not, as text after `=`.
WORDS = ("x", "", "None", "(1,)", "{}", "[[]]", "nan", "1e3 ", "'1'")
NOT_INTEGERS = (*WORDS, "1.5", "inf", "1e3", "true")
NOT_NUMBERS = (
  *[w for w in WORDS if w != "1e3 "],
  "inf",
  "-inf",
  "1e400",
  "1,5",
)


def integers(low: int, high: int, most: int | None = None) -> tuple:
  """From `low` to `high`; legal ones are drawn up to `most` only."""
  return (
    st.integers(low, high if most is None else most).map(str),
    st.sampled_from(NOT_INTEGERS)
    | st.integers(max_value=low - 1).map(str)
    | st.integers(min_value=high + 1).map(str),
  )


def numbers(low: float, high: float, most: float | None = None) -> tuple:
  return (
    st.floats(low, high if most is None else most, allow_subnormal=False).map(
      repr
    ),
    st.sampled_from(NOT_NUMBERS)
    | st.floats(max_value=low, exclude_max=True, allow_nan=False).map(repr)
    | st.floats(min_value=high, exclude_min=True, allow_nan=False).map(repr),
  )


def choices(*legal: str, wrong: tuple[str, ...] = ()) -> tuple:
  others = st.text(st.characters(exclude_characters="\0", codec="utf-8"))
  others |= st.sampled_from(("../..", "a\nb", "x" * 5000, "'", *wrong))
  return (
    st.sampled_from(legal),
    others.filter(lambda text: text.strip() not in legal),
  )


def tuples(item: st.SearchStrategy, *lengths: int, wrong: tuple = ()) -> tuple:
  """Tuples of legal items of some of the lengths, or other values."""
  written = st.one_of(
    *(st.lists(item, min_size=n, max_size=n) for n in lengths)
  )
  not_tuples = ("1", "x", "", "(", "()" * 2, "[1]", "((((", "(None,)", "('a',)")
  nested = ("((1,),)", "({},)", "(1j,)", "(True,)", "(1e999,)", "(-1,)")
  return (
    written.map(lambda items: repr(tuple(items))),
    st.sampled_from((*not_tuples, *nested, *wrong)),
  )


BOOLEANS = (
  st.sampled_from(("true", "false", "1", "0")),
  st.sampled_from(("maybe", "", "2", "-1", "None", "1.0", "(True,)")),
)
BIG = 2**31 - 1
MUCH = 1e30


def unused(kind: tuple) -> tuple:
  """Of a key that nothing reads in this configuration: no value is legal."""
  return None, st.one_of(kind)


POSITIVE = numbers(1e-30, MUCH)
FROM_0 = numbers(0.0, MUCH)
PAIRS = tuples(
  st.tuples(st.just("fc8"), st.floats(0, MUCH, allow_subnormal=False)),
  *(0, 1),
  wrong=(
    *("(('fc8', '1.0'),)", "('fc8', 1.0)", "(('fc8', -1.0),)", "(('fc8',),)"),
    *("(('fc9', 1.0),)", "((8, 1.0),)", "(('fc8', 1.0), ('fc8', 2.0))"),
    "(('fc8', 1e999),)",
  ),
)

# Every key; the layer conv4 stands for all. Of the sandbox's configuration: 96
# training images of ten classes, 72 pixels, crops of 64, batches of 16 on one
# device, two towers.
KEYS = {
  "seed": integers(0, 2**63 - 1),
  "batch_size": (
    integers(1, BIG, most=512)[0],
    # The last one needs terabytes.
    integers(1, BIG)[1] | st.just("2000000000"),
  ),
  "total_epochs": integers(1, 10**9, most=10**6),
  "total_steps": integers(0, BIG),
  "log_every_steps": integers(0, BIG),
  "diagnose_every_lines": integers(0, BIG),
  "checkpoint_every_steps": integers(0, BIG),
  "checkpoints_to_keep": integers(1, BIG),
  "max_undecodable": integers(0, BIG),
  "holdout": integers(0, 95),
  "input_threads": integers(0, BIG, most=64),
  "num_classes": integers(10, 10),
  "image_size": integers(64, 4096, most=256),
  "eval_every_epochs": numbers(0.0, MUCH),
  "early_stopping": integers(0, BIG, most=1000),
  "stall_minutes": numbers(0.0, 1e6),
  "report_at_end": BOOLEANS,
  "random_streams": choices("separate", "shared"),
  "dataset": choices("faulty", "faulty:1.0.0", wrong=("patterns/-1", "/", ".")),
  "splits.train": choices(
    "train", "train[:50%]", wrong=("train[:0]", "train[")
  ),
  "splits.validation": choices("validation", "train", wrong=("a+b", "all ")),
  # Training does not open it, so that every name is accepted.
  "splits.test": (st.sampled_from(("test", "x")), st.sampled_from(("", " "))),
  "data_dir": (st.just("data"), st.sampled_from(("gs://bucket/x", "s3://b"))),
  "start_from": (st.just(""), st.sampled_from(("none", "a\nb", "/", "."))),
  "start_layers": unused(tuples(st.just("fc6"), 0, 1)),
  "start_checkpoint": unused(choices("newest", "best", "3")),
  "start_mean_image": unused(BOOLEANS),
  "centre_mean": BOOLEANS,
  "pixels.rescale": choices("crop", "warp", "torchvision", "caffe"),
  "pixels.order": choices("rgb", "bgr"),
  "pixels.divisor": POSITIVE,
  "pixels.mean": tuples(st.floats(-MUCH, MUCH), 0, 3, wrong=("(1, 2)",)),
  "pixels.deviation": tuples(st.floats(1e-3, 1e3), 0, 3, wrong=("(1, 0, 1)",)),
  "augmentation.crop": BOOLEANS,
  "augmentation.flip": BOOLEANS,
  "augmentation.lighting": FROM_0,
  "augmentation.lighting_divisor": POSITIVE,
  "augmentation.lighting_until": FROM_0,
  "augmentation.colour": numbers(0.0, 1.0),
  "augmentation.mixing": numbers(0.0, 1.0),
  "augmentation.shared_by": (
    st.sampled_from(("1", "2", "4", "8", "16")),
    st.sampled_from((*NOT_INTEGERS, "0", "-1", "3", "5", "32", "10" * 20)),
  ),
  "network.width": numbers(1e-30, 1000.0, most=0.5),
  "network.crop_size": integers(40, 72, most=72),
  "network.channels": (
    st.sampled_from(("1", "3")),
    st.sampled_from((*NOT_INTEGERS, "0", "2", "4", "-3", "9" * 30)),
  ),
  "network.towers": integers(2, 1024, most=4),
  "network.exchange_dtype": choices("float32", "bfloat16", "float16"),
  "network.compute_dtype": choices("float32", "bfloat16"),
  "network.precision": choices("float32", "tf32", "default"),
  "network.exchanges": (
    st.sampled_from(("('fc8',)", "('conv3', 'fc8')", "('conv4','fc8')")),
    st.sampled_from(
      ("('conv1', 'fc8')", "('x',)", "('conv3',)", "(3,)", "fc8", "", "('fc8'")
    ),
  ),
  "network.lrn_k": POSITIVE,
  "network.lrn_n": integers(1, BIG, most=1000),
  "network.lrn_alpha": FROM_0,
  "network.lrn_beta": FROM_0,
  "network.within_map_k": unused(POSITIVE),
  "network.within_map_n": unused(integers(1, BIG)),
  "network.within_map_alpha": unused(FROM_0),
  "network.within_map_beta": unused(FROM_0),
  "network.batch_norm_momentum": unused(numbers(0.0, 1.0)),
  "network.batch_norm_epsilon": unused(POSITIVE),
  "network.pool_size": integers(1, 4096, most=3),
  "network.pool_stride": integers(1, 4096, most=2),
  "network.pool_overhang": BOOLEANS,
  "network.dropout_rate": (
    numbers(0.0, 1.0, most=0.999)[0],
    numbers(0.0, 1.0)[1] | st.just("1.0"),
  ),
  "network.dropout_inverted": BOOLEANS,
  "network.fc8_std": FROM_0,
  "network.conv4.features": integers(0, 2**20, most=256),
  "network.conv4.size": (
    st.sampled_from(("2", "3")),
    st.sampled_from((*NOT_INTEGERS, "-1", "0", "1", "4097", "9" * 30)),
  ),
  "network.conv4.stride": integers(1, 4096, most=1),
  "network.conv4.groups": integers(1, BIG, most=1),
  "network.conv4.local": BOOLEANS,
  "network.conv4.std": FROM_0,
  "network.conv4.bias": numbers(-MUCH, MUCH),
  "network.conv4.padding": (
    st.sampled_from(("(1, 1)", "(0, 2)", "(2, 2)")),
    st.sampled_from(
      ("(-1, 1)", "(1,)", "(3, 3)", "1", "(1, 1.5)", "(1, 1, 1)", "('1', '1')")
    ),
  ),
  "network.conv4.then": (
    st.sampled_from(("('relu',)", "()", "('tanh', 'dropout')")),
    st.sampled_from(("('rely',)", "(1,)", "relu", "(('relu',),)", "(None,)")),
  ),
  "optimizer.momentum": numbers(0.0, 1.0),
  "optimizer.weight_decay": FROM_0,
  "optimizer.l1": FROM_0,
  "optimizer.decay_biases": BOOLEANS,
  "optimizer.layer_weight_decay": PAIRS,
  "optimizer.layer_rates": PAIRS,
  "schedule.name": choices("piecewise", "plateau", "log145_2012", "cosine"),
  "schedule.learning_rate": FROM_0,
  "schedule.bias_learning_rate": FROM_0,
  "schedule.bias_drops": choices("all", "once", "never"),
  "schedule.conv1_frozen_from": FROM_0,
  "schedule.boundaries": tuples(st.floats(0, MUCH), 0, 1, 3),
  "schedule.patience": unused(integers(1, BIG)),
  "schedule.drops": unused(integers(0, 30)),
  "schedule.warmup_epochs": unused(FROM_0),
  "mesh.data": (
    st.sampled_from(("0", "1", "2", "4")),
    st.sampled_from((*NOT_INTEGERS, "-1", "3", "16", "9" * 30)),
  ),
  "mesh.model": (
    st.sampled_from(("0", "1", "2")),
    st.sampled_from((*NOT_INTEGERS, "-1", "3", "16", "9" * 30)),
  ),
}

# An output cannot be there.
OUTPUT = (
  st.sampled_from(("new.json", "./other.json", "")),
  st.sampled_from(("none/x.json", ".", "/proc/x.json", "tiny.py/x.json", "/")),
)
OUTPUT_FOLDER = (
  st.sampled_from(("new", "new/deep")),
  st.sampled_from(("tiny.py", "tiny.py/deep", "/proc/none")),
)
CHECKPOINT = choices("newest", "best", "3", wrong=("-1", "1.5", ""))
VIEWS = (
  st.sampled_from(("1", "10")),
  st.sampled_from((*NOT_INTEGERS, "0", "2", "-1", "9" * 30)),
)
MESH = (
  st.sampled_from(("", "data:1", "data:1,model:2", "data:2,model:1")),
  st.sampled_from(
    (
      *("x", "data", "data:-1", "data:0x2", "data:1,data:2", "model:3"),
      *("data:1,model:2,", "1x2", "data:1;model:2", "data:" + "9" * 30),
    )
  ),
)
ADDRESS = st.sampled_from(("gs://bucket/x", "s3://b"))
CONFIG = "--config=tiny.py"

# For each command: arguments that it needs, and its flags.
COMMANDS = {
  "alexnet_jax.main": (
    (CONFIG, "--workdir=new"),
    {
      "workdir": OUTPUT_FOLDER,
      "config": choices("tiny.py"),
      "num_processes": (st.just("0"), st.sampled_from(("-1", "x", "2", ""))),
    },
  ),
  "alexnet_jax.describe": (
    (CONFIG,),
    {"json": OUTPUT, "beside": choices("tiny.py", "paper", "", wrong=("run",))},
  ),
  "alexnet_jax.audit": (
    (CONFIG,),
    {
      "json": OUTPUT,
      "mesh": MESH,
      "topology": (
        st.just(""),
        st.sampled_from(("x", "v5e", "v5e:", "v5e:0x", "v5e:-1x2", "h9:2x2")),
      ),
    },
  ),
  "alexnet_jax.benchmark step": (
    (CONFIG,),
    {"json": OUTPUT, "mesh": MESH, "batch_size": integers(1, BIG, most=512)},
  ),
  "alexnet_jax.benchmark input": (
    ("--dataset=faulty", "--data_dir=data"),
    {
      "size": integers(1, 4096),
      "need": numbers(0.0, sys.float_info.max, most=1e9),
      "split": choices("train", "validation"),
      "dataset": choices("faulty"),
    },
  ),
  "alexnet_jax.evaluate": (
    ("--workdir=run",),
    {
      "views": VIEWS,
      "json": OUTPUT,
      "per_class": OUTPUT,
      "split": choices("train", "validation", "test"),
      "checkpoint": CHECKPOINT,
      "workdir": choices("run", wrong=("none", "run,none", "damaged", "lacks")),
      "skip_unknown_classes": (st.just("false"), BOOLEANS[1]),
    },
  ),
  "alexnet_jax.predict": (
    ("--workdir=run", "picture.jpg"),
    {
      "top": integers(1, sys.maxsize, most=10**6),
      "views": VIEWS,
      "json": OUTPUT,
      "checkpoint": CHECKPOINT,
      "exif_orientation": choices("auto", "apply", "ignore"),
      "workdir": choices("run", wrong=("none", "damaged", "lacks")),
      "features": (st.just(""), st.just("fc7")),  # without --output
    },
  ),
  "alexnet_jax.weights export": (
    ("--workdir=run", "--output=new.safetensors"),
    {
      "output": (st.just("new.safetensors"), OUTPUT[1]),
      "channels": choices("", "rgb", "bgr"),
      "checkpoint": CHECKPOINT,
      "workdir": choices("run", wrong=("none", "damaged", "lacks")),
    },
  ),
  "alexnet_jax.report": (
    ("--workdir=run", "--output=new.html"),
    {
      "output": (st.just("new.html"), OUTPUT[1]),
      "search": integers(0, sys.maxsize),
      "checkpoint": CHECKPOINT,
      "workdir": choices("run", wrong=("none", "run,none", "damaged", "lacks")),
    },
  ),
  "alexnet_jax.prepare": (
    ("--source=folder:pictures", "--data_dir=new", "--holdout=0.5"),
    {
      "data_dir": OUTPUT_FOLDER,
      "limit": integers(0, sys.maxsize),
      "quality": integers(1, 100),
      "subsampling": choices("444", "422", "420"),
      "size": integers(8, 4096),
      "rescale": choices("crop", "warp", "torchvision", "caffe"),
      "holdout": (st.just("0.5"), numbers(0.0, 0.99)[1]),
      "exif_orientation": choices("auto", "apply", "ignore"),
      "shard_size": integers(1, sys.maxsize),
      "source": (st.just("folder:pictures"), st.sampled_from(("x", "zip:x"))),
      "layout": choices("auto", "class_folders", wrong=("none",)),
    },
  ),
  "experiments.lrn": (
    ("--output=new",),
    {
      "output": OUTPUT_FOLDER,
      "seeds": integers(0, sys.maxsize, most=5),
      "parallel": integers(1, sys.maxsize, most=4),
      "record": OUTPUT,
      "quick": BOOLEANS,
      "runs": (st.just(""), st.sampled_from(("nothing", "0"))),
      "train": (st.just(""), st.sampled_from(("x", "-1", "none-0"))),
      "set": (
        st.sampled_from(("batch_size=64", "network.width=0.25")),
        st.sampled_from(("x", "batch_siz=3", "=", "network=3", "batch_size=x")),
      ),
    },
  ),
}
# Commands whose flags are checked, but that have no point to stop at before
# their work: only what is refused is tried.
REFUSALS = {
  "benchmarks.kernels": {"output": OUTPUT, "rounds": integers(1, sys.maxsize)},
  "benchmarks.starting": {"output": OUTPUT, "rounds": integers(1, sys.maxsize)},
  "benchmarks.loaders": {"json": OUTPUT, "steps": integers(1, sys.maxsize)},
  "benchmarks.listing": {"json": OUTPUT, "folder": OUTPUT_FOLDER},
  "experiments.record": {"output": OUTPUT},
  "experiments.paper_tables": {"json": OUTPUT},
  "experiments.launch": {"output": OUTPUT_FOLDER},
  "experiments.mesh_sweep": {"work": OUTPUT_FOLDER, "output": OUTPUT_FOLDER},
  "experiments.start_of_training": {
    "output": OUTPUT_FOLDER,
    "seeds": integers(1, sys.maxsize),
  },
}


@st.composite
def lines(draw) -> Line:
  """Half of the lines have a key of the configuration, half another flag."""
  if draw(st.booleans()):
    key = draw(st.sampled_from(sorted(KEYS)))
    legal = draw(st.booleans()) and KEYS[key][0] is not None
    value = draw(KEYS[key][not legal])
    flag = f"--config.{key}={value}"
    return Line("alexnet_jax.main", (CONFIG, "--workdir=new", flag), legal, key)
  command = draw(st.sampled_from([*COMMANDS, *REFUSALS]))
  needed, flags = COMMANDS.get(command, ((), REFUSALS.get(command)))
  name = draw(st.sampled_from(sorted(flags)))
  legal = draw(st.booleans()) and command in COMMANDS
  value = draw(flags[name][not legal])
  module, *word = command.split()
  given_twice = [x for x in needed if not x.startswith(f"--{name}=")]
  return Line(module, (*word, *given_twice, f"--{name}={value}"), legal)


def generate(count: int, number: int) -> list[Line]:
  """Up to `count` different lines, always the same for a `number`."""
  found: list[Line] = []

  @seed(number)
  @settings(
    max_examples=count,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
  )
  @given(lines())
  def collect(line):
    found.append(line)

  collect()
  return list(dict.fromkeys(found))
