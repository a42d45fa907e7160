"""Which runs answer which claims: planted runs of every kind."""

import copy

import pytest

from alexnet_jax.analysis import claims
from alexnet_jax.analysis.claims import Net
from alexnet_jax.runtime import config as configs
from experiments.common import pairing

NETS = {claim.key: claim.net for claim in claims.ERRORS if claim.net}
LRN = NETS["lrn.top1"]
FILES = {
  name: configs.to_json(configs.load(f"configs/{name}.py"))
  for name in (
    *("paper", "original2012", "no_lrn", "no_norms_148", "tanh", "conv6"),
    *("half", "half_145", "no_lighting", "cosine"),
  )
}


def run(name, seed=0, epochs=None, workdir="", **changes):
  """A finished run of a file with changes, such as total_epochs=20."""
  config = copy.deepcopy(FILES[name]) | {"seed": seed}
  for key, value in changes.items():
    group, _, inner = key.rpartition("__")
    (config[group] if group else config)[inner] = value
  config["dataset"] += "_256"
  workdir = workdir or f"{name}-{seed}"
  epochs = config["total_epochs"] if epochs is None else epochs
  return pairing.Trained(workdir, name, config, FILES[name], epochs)


def error(workdirs):
  """Of a network named NAME-SEED: its place in the list of files, and seed."""
  (workdir,) = workdirs
  name, _, seed = workdir.rpartition("-")
  return list(FILES).index(name) / 10 + int(seed) / 100


def answer(*runs, net=LRN):
  return pairing.answer(net, list(runs), error)


def test_a_difference_is_the_mean_over_all_common_seeds():
  found = answer(
    run("no_lrn", 0),
    run("no_lrn", 1),
    run("paper", 1),
    run("paper", 0),
    run("paper", 7),
  )
  assert found.value == pytest.approx(0.2)  # not that of one pair
  assert found.source == (
    "mean of no_lrn-0 + no_lrn-1 minus mean of paper-0 + paper-1"
  )
  assert not found.refused


@pytest.mark.parametrize(
  ("treated", "base"),
  [
    ("no_lrn", "original2012"),
    ("no_norms_148", "paper"),
    ("no_lrn", "cosine"),
  ],
)
def test_runs_of_two_recipes_are_not_subtracted(treated, base):
  found = answer(run(treated), run(base))
  assert found.value is None
  assert "no run of configs/" in found.refused[0]


def test_like_is_paired_with_like_when_both_recipes_are_there():
  found = answer(run("no_lrn"), run("original2012"), run("no_norms_148"))
  assert found.source == "no_norms_148-0 minus original2012-0"


def test_another_seed_is_no_partner():
  found = answer(run("no_lrn", 0), run("paper", 1))
  assert found.value is None and "with its seed" in found.refused[0]


@pytest.mark.parametrize(
  ("changes", "reason"),
  [
    ({"total_epochs": 20}, "total_epochs is 20, in configs/paper.py 90"),
    ({"epochs": 40}, "it has done 40 of 90 epochs"),
    ({"splits__train": "train[:50%]"}, "splits.train is 'train[:50%]'"),
    ({"start_from": "runs/other"}, "start_from is 'runs/other'"),
    ({"holdout": 10000}, "holdout is 10000"),
    ({"total_steps": 100}, "total_steps is 100"),
    ({"schedule__learning_rate": 0.02}, "schedule.learning_rate is 0.02"),
    ({"batch_size": 256}, "batch_size is 256"),
    ({"image_size": 240}, "image_size is 240"),
  ],
)
def test_a_run_that_is_not_the_files_training_is_refused(changes, reason):
  for found in (
    answer(run("no_lrn"), run("paper", **changes)),
    answer(run("paper", **changes), net=NETS["table2.1_cnn.top1"]),
  ):
    assert found.value is None
    assert any(reason in text for text in found.refused), found.refused


def test_two_runs_that_differ_elsewhere_are_refused():
  """Each by itself is one of the documented schedules of the source."""
  dexp = {"schedule__name": "dexp", "schedule__bias_drops": "once"}
  found = answer(run("no_norms_148", **dexp), run("original2012"))
  assert found.value is None
  assert "schedule.name is 'dexp' and in original2012-0" in found.refused[0]
  found = answer(run("no_norms_148", **dexp), run("original2012", **dexp))
  assert found.value == pytest.approx(0.2)


def test_where_and_how_often_does_not_matter():
  changed = {"mesh__data": 4, "data_dir": "/elsewhere", "log_every_steps": 1}
  changed["input_threads"] = 3
  assert answer(run("no_lrn", **changed), run("paper")).value is not None


def test_a_sixth_layer_trained_from_scratch_is_no_pretrained_network():
  net = NETS["table2.1_cnn_star.top1"]
  scratch = answer(run("conv6"), net=net)
  assert scratch.value is None
  assert "trained from scratch" in scratch.refused[0]
  layers = ("conv1",)
  pretrained = run("conv6", start_from="runs/wide", start_layers=layers)
  assert answer(pretrained, net=net).value is not None


def average(workdirs):
  return len(workdirs) / 10


@pytest.mark.parametrize(
  ("runs", "reason"),
  [
    ([run("tanh", seed) for seed in range(5)], "tanh-0: it is tanh"),
    ([run("paper", 0, workdir=f"r{i}") for i in range(5)], "the seed of r0"),
    (
      [run("paper", 0), *(run("original2012", seed) for seed in range(4))],
      "several recipes: original2012, paper",
    ),
    (
      [run("paper", seed, epochs=10) for seed in range(5)],
      "it has done 10 of 90",
    ),
    (
      [*(run("paper", seed) for seed in range(4)), run("conv6")],
      "1 of the networks are conv6, wanted are 0",
    ),
  ],
)
def test_five_networks_are_five_of_the_papers(runs, reason):
  net = NETS["table2.5_cnns.top1"]
  found = pairing.answer(net, runs, average)
  assert found.value is None
  assert any(reason in text for text in found.refused), found.refused


def test_five_seeds_of_one_recipe_answer_and_four_do_not():
  net, runs = NETS["table2.5_cnns.top1"], [run("paper", s) for s in range(5)]
  assert pairing.answer(net, runs, average).value == 0.5
  assert pairing.answer(net, runs[:4], average) == (None, "", ())


def test_a_run_of_other_images_is_ignored():
  net = NETS["two_gpus.top1"]  # ILSVRC-2010
  assert answer(run("half"), run("paper"), net=net) == (None, "", ())
  both = [
    run("half", dataset="imagenet2010"),
    run("paper", dataset="imagenet2010"),
  ]
  assert answer(*both, net=net).value == pytest.approx(0.6)


def test_every_difference_names_pairs_of_one_recipe():
  """The file of a variant differs from its base in its subject only."""
  nets = {net for net in NETS.values() if net.minus}
  assert nets
  for net in nets:
    for name, base in zip(net.configs, net.minus, strict=True):
      one, two = (
        dict(configs.flatten(configs.to_json(configs.load(f"configs/{n}.py"))))
        for n in (name, base)
      )
      changed = {key for key in one | two if one.get(key) != two.get(key)}
      assert all(key.split(".")[0] in SUBJECTS for key in changed), changed
      assert len(changed) <= 20  # of some 150 keys


SUBJECTS = ("network", "augmentation")


def test_a_claim_without_runs_is_not_run():
  assert answer() == (None, "", ())
  assert pairing.answer(Net(("paper",), "imagenet2012"), [], error) == (
    None,
    "",
    (),
  )
