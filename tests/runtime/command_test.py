"""Exit statuses and messages, as the shell sees them."""

import json
import pathlib
import subprocess
import sys

import pytest

ROOT = str(pathlib.Path(__file__).resolve().parents[2])

COMMAND = '''
"""Docstring of the probe, 100% as written."""

from absl import flags

from alexnet_jax.runtime import command, config

CONFIG = config.DEFINE_config()
SIZE = flags.DEFINE_integer("size", 3, "the help text of size")
OUTCOMES = ["", "mistake", "unused", "stop", "five", "full"]
OUTCOME = flags.DEFINE_enum("outcome", "", OUTCOMES, "")


def main():
  if OUTCOME.value == "mistake":
    raise command.UserError("you did this; do that")
  if OUTCOME.value == "unused":
    config.check_overrides({"schedule.learning_rate": "the wind is calm"})
  if OUTCOME.value == "stop":
    raise KeyboardInterrupt
  if OUTCOME.value == "full":
    with open("/dev/full", "w") as file:
      file.write("no room")
  if OUTCOME.value == "five":
    return 5
  print("size", SIZE.value, "seed", CONFIG.value.seed,
        "batch", CONFIG.value.batch_size, "mesh", CONFIG.value.mesh.model,
        "rate", CONFIG.value.schedule.learning_rate,
        "flip", CONFIG.value.augmentation.flip,
        "name", CONFIG.value.dataset, "stops", CONFIG.value.schedule.boundaries,
        "at", config.default_workdir(config.path()))


if __name__ == "__main__":
  command.run(main)
'''

CONFIG = """
from configs import paper

def get_config(argument="none"):
  config = paper.get_config()
  config.seed = 7
  config.dataset = argument
  config.mesh.model = 2
  return config
"""


# Runs scripts in forked copies of itself, so that the imports are done once.
SERVER = """
import json, os, runpy, sys
import alexnet_jax.runtime.config
for line in sys.stdin:
  folder, *argv = json.loads(line)
  child = os.fork()
  if child == 0:
    os.chdir(folder)
    for number, name in ((1, "stdout"), (2, "stderr")):
      os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.argv = argv
    runpy.run_path(argv[0], run_name="__main__")
  print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def server():
  with subprocess.Popen(
    [sys.executable, "-c", SERVER],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
    env={"PYTHONPATH": ROOT, "PATH": ""},
  ) as process:
    yield process


@pytest.fixture
def probe(tmp_path, server):
  """Runs the probe command in a folder of its own."""
  (tmp_path / "probe.py").write_text(COMMAND)
  (tmp_path / "good.py").write_text(CONFIG)

  def run(*arguments, name="probe.py"):
    argv = [str(tmp_path), str(tmp_path / name), *arguments]
    print(json.dumps(argv), file=server.stdin, flush=True)
    status = int(server.stdout.readline())
    output, errors = (
      (tmp_path / name).read_text() for name in ("stdout", "stderr")
    )
    return subprocess.CompletedProcess(argv, status, output, errors)

  return run


def test_values_of_flags_reach_main(probe):
  result = probe(
    "--config=good.py:arg",
    "--size=4",
    "--config.batch_size=64",
    "--config.mesh.model",
    "1",
    "--config.schedule.learning_rate=1",
    "--noconfig.augmentation.flip",
    "--config.schedule.boundaries=(3,)",
  )
  assert (result.returncode, result.stderr) == (0, "")
  assert result.stdout == (
    "size 4 seed 7 batch 64 mesh 1 rate 1.0 flip False name arg stops (3,)"
    " at runs/good_arg\n"
  )


def test_help_shows_the_docstring_and_the_commands_own_flags(probe):
  result = probe("--help")
  assert result.returncode == 0
  assert "Docstring of the probe, 100% as written." in result.stdout
  assert "the help text of size" in result.stdout
  assert "--config" in result.stdout
  assert "pdb" not in result.stdout


MISTAKES = {
  "unknown flag": (["--config=good.py", "--sise=3"], "sise", "size"),
  "bad value": (["--config=good.py", "--size=big"], "size", "big"),
  "missing value": (["--config"], "--config", "value"),
  "no config": ([], "--config is missing", "configs/NAME.py"),
  "override only": (["--config.seed=1"], "config", "seed"),
  "stray word": (["--config=good.py", "word"], "'word'", "--name=value"),
  "unknown key": (
    ["--config=good.py", "--config.batch_siz=3"],
    "'batch_siz'",
    "'batch_size'",
  ),
  "unknown nested key": (
    ["--config=good.py", "--config.mesh.modl=3"],
    "'mesh.modl'",
    "'mesh.model'",
  ),
  "key below a number": (
    ["--config=good.py", "--config.seed.x=3"],
    "'seed.x'",
    "seed",
  ),
  "empty key": (["--config=good.py", "--config.=3"], "key ''", "good.py"),
  "group": (
    ["--config=good.py", "--config.mesh=3"],
    "group",
    "--config.mesh.data",
  ),
  "wrong integer": (
    ["--config=good.py", "--config.batch_size=1.5"],
    "an integer",
    "1.5",
  ),
  "wrong number": (
    ["--config=good.py", "--config.schedule.learning_rate", "fast"],
    "a number",
    "fast",
  ),
  "wrong flag": (
    ["--config=good.py", "--config.augmentation.flip=maybe"],
    "true or false",
    "maybe",
  ),
  "wrong tuple": (
    ["--config=good.py", "--config.schedule.boundaries=(1"],
    "a tuple such as '(1, 2)'",
    "(1",
  ),
  "not a tuple": (
    ["--config=good.py", "--config.schedule.boundaries=1"],
    "a tuple such as '(1, 2)'",
    "config.schedule.boundaries=1",
  ),
  "order": (["--config.seed=1", "--config=good.py"], "before", "seed"),
  "missing file": (["--config=god.py"], "'god.py'", "good.py"),
  "a folder": (["--config=."], "not found", "'.'"),
  "key without effect": (
    [
      "--config=good.py",
      "--config.schedule.learning_rate=1",
      "--outcome=unused",
    ],
    "--config.schedule.learning_rate would have no effect: the wind is calm",
    "Remove it",
  ),
  "user error": (
    ["--config=good.py", "--outcome=mistake"],
    "you did this; do that",
    "error",
  ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_one_paragraph_and_status_2(probe, name):
  arguments, *said = MISTAKES[name]
  result = probe(*arguments)
  assert result.returncode == 2, result.stderr
  assert result.stdout == ""
  assert result.stderr.startswith("error: ")
  assert result.stderr.count("\n") == 1, result.stderr
  for words in said:
    assert words in result.stderr


@pytest.mark.parametrize(
  ("text", "said"),
  [
    ("def get_config(): raise ValueError('boo')", "boo"),
    ("def get_config(): raise RuntimeError('boo')", "boo"),
    ("def get_config(): raise SystemExit('boo')", "boo"),
    ("def get_config(", "SyntaxError"),
    ("import nothere", "nothere"),
    ("x = 1", "get_config"),
    ("def get_config(): return None", "NoneType"),
    ("def get_config(): return {'seed': 1}", "dict"),
    ("\0", "null"),
  ],
)
def test_a_configuration_that_fails_is_named_with_the_reason(
  probe, tmp_path, text, said
):
  (tmp_path / "bad.py").write_text(text)
  result = probe("--config=bad.py", "--config.seed=1")
  assert result.returncode == 2
  assert result.stderr.count("\n") == 1, result.stderr
  assert "bad.py" in result.stderr and said in result.stderr


@pytest.mark.parametrize(("outcome", "status"), [("stop", 130), ("five", 5)])
def test_exit_statuses(probe, outcome, status):
  result = probe("--config=good.py", f"--outcome={outcome}")
  assert result.returncode == status
  assert "Traceback" not in result.stderr
  assert (outcome == "stop") == (result.stderr == "interrupted\n")


def test_a_full_disk_is_an_error_without_traceback(probe):
  result = probe("--config=good.py", "--outcome=full")
  assert result.returncode == 2
  assert result.stderr.startswith("error: ")
  assert "No space left on device" in result.stderr
  assert "Traceback" not in result.stderr


def test_exactly_one_subcommand_is_expected(probe, tmp_path):
  (tmp_path / "choice.py").write_text(
    "from absl import flags\n"
    "from alexnet_jax.runtime import command\n"
    "SIZE = flags.DEFINE_integer('size', 3, '')\n"
    "def main(word):\n  print(word, SIZE.value)\n"
    "command.run(main, 'export', 'import')\n"
  )
  assert probe("import", "--size=5", name="choice.py").stdout == "import 5\n"
  for words in ([], ["transport"], ["import", "export"]):
    result = probe(*words, name="choice.py")
    assert result.returncode == 2
    assert "expected one of export, import" in result.stderr


def test_operands_reach_main_wherever_flags_stand(probe, tmp_path):
  script = COMMAND.replace("def main():", "def main(*words):")
  script = script.replace('print("size"', 'print(words, "size"')
  script = script.replace("run(main)", "run(main, operands=True)")
  (tmp_path / "words.py").write_text(script)
  result = probe(
    *("a.jpg", "--size=4", "b c.jpg", "--config=good.py", "--", "--d.jpg"),
    name="words.py",
  )
  assert (result.returncode, result.stderr) == (0, "")
  assert result.stdout.startswith("('a.jpg', 'b c.jpg', '--d.jpg') size 4")
