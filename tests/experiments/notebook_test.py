"""The notebook: its set-up, and all of it in a kernel, opened alone."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
NOTEBOOK = json.loads((ROOT / "experiments" / "colab.ipynb").read_text())
CODE = [
  "".join(cell["source"])
  for cell in NOTEBOOK["cells"]
  if cell["cell_type"] == "code"
]
ADDRESS, COPY, INSTALL = CODE[:3]
# What the test changes, so that it takes a minute.
SHORTER = {
  "config.total_epochs = 4": "config.total_steps = 3",
  "range(200)": "range(20)",
}


def git(folder, *command):
  names = "-c", "user.name=test", "-c", "user.email=test@example.com"
  subprocess.run(["git", "-C", folder, *names, *command], check=True)


def make_repository(folder):
  git(folder, "init", "-q")
  git(folder, "add", ".")
  git(folder, "commit", "-q", "-m", "all files")
  return folder.as_uri()


@pytest.fixture(scope="module")
def project(tmp_path_factory):
  """The address of a repository of the files that are here now."""
  folder = tmp_path_factory.mktemp("project")
  skipped = shutil.ignore_patterns("__pycache__")
  for name in ("alexnet_jax", "configs"):
    shutil.copytree(ROOT / name, folder / name, ignore=skipped)
  (folder / "docs").mkdir()
  for name in ("requirements.txt", "docs/towers.svg"):
    shutil.copy(ROOT / name, folder / name)
  return make_repository(folder)


def test_the_first_line_is_the_address():
  assert len(ADDRESS.splitlines()) == 1
  assert ADDRESS.startswith('REPOSITORY = "https://')


def copy_project(folder, address, beside=""):
  """Executes the cells that copy the project, in an otherwise empty folder."""
  (folder / "empty").mkdir()
  ending = "\nimport alexnet_jax; print(alexnet_jax.__file__)"
  return subprocess.run(
    [sys.executable, "-c", f"REPOSITORY = {address!r}\n{COPY}{ending}"],
    capture_output=True, text=True, cwd=folder / "empty" / beside,
    stdin=subprocess.DEVNULL, timeout=60,
  )  # fmt: skip


@pytest.mark.parametrize(
  ("address", "reason"),
  [
    ("", "It is now ''"),
    ("  ", "It is now '  '"),
    (ADDRESS.split('"')[1], "/YOU/"),
    ("file:///no/such/folder", "does not"),
    ("-h", "does not"),
    ("OTHER", "holds another project"),
  ],
)
def test_a_wrong_address_is_refused_with_a_sentence(address, reason, tmp_path):
  if address == "OTHER":
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("another project\n")
    address = make_repository(tmp_path / "other")
  ended = copy_project(tmp_path, address)
  assert ended.returncode == 1 and not ended.stdout
  assert "Set REPOSITORY, in the cell above" in ended.stderr
  assert reason in ended.stderr and "Traceback" not in ended.stderr
  assert not list((tmp_path / "empty").iterdir())


def test_the_project_is_copied_once(project, tmp_path):
  ended = copy_project(tmp_path, project)
  where = tmp_path / "empty" / "alexnet"
  assert ended.stderr == ""
  assert str(where / "alexnet_jax" / "__init__.py") in ended.stdout
  # Executed again, in the same folder and inside of the copy.
  for folder in (where.parent, where, where / "docs"):
    again = subprocess.run(
      [sys.executable, "-c", f"REPOSITORY = ''\n{COPY}"],
      capture_output=True, text=True, cwd=folder, check=True,
    )  # fmt: skip
    assert again.stdout == f"The project is in {where}\n"


def install(folder, monkeypatch, packages, pip=lambda: None):
  """Executes the cell that installs, and returns what pip would be given.

  Args:
    folder: an empty one, in which requirements.txt and `packages` are.
    packages: versions by name, with a module for each.
    pip: changes what is installed.
  """
  (folder / "requirements.txt").write_text(
    "jax>=0.10.2,<0.13  # a reason\n\n# a remark\npillow>=11\nscipy>=1.15\n"
    "no_such_package>=2\n"
  )
  for name, version in packages.items():
    made = folder / f"{name.replace('-', '_')}-0.dist-info"
    made.mkdir()
    (made / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (made / "top_level.txt").write_text("json\n" if name == "loaded" else "")
  monkeypatch.syspath_prepend(str(folder))
  monkeypatch.chdir(folder)
  given = []

  def run(*command, advice):
    del advice
    assert command[:4] == (sys.executable, "-m", "pip", "install")
    given.extend(command[5:])
    pip()

  exec(INSTALL, {"run": run, "pathlib": pathlib, "sys": sys})
  return given


def test_what_is_missing_or_too_old_is_installed(tmp_path, monkeypatch, capsys):
  installed = {"jax": "0.10.2", "pillow": "9.5.0", "scipy": "1.15.0rc1"}
  given = install(tmp_path, monkeypatch, installed)
  assert given == ["pillow>=11", "scipy>=1.15", "no_such_package>=2"]
  printed = [line.split() for line in capsys.readouterr().out.splitlines()]
  assert ["jax<0.13,>=0.10.2", "0.10.2"] in printed
  assert ["pillow>=11", "9.5.0", "is", "installed", "now"] in printed


def test_what_is_new_is_left_as_it_is(tmp_path, monkeypatch, capsys):
  new = {"jax": "0.14.1", "pillow": "11", "scipy": "1.20"}
  given = install(tmp_path, monkeypatch, new | {"no_such_package": "2.0"})
  assert given == []
  assert "0.14.1       newer than tested" in capsys.readouterr().out


def test_a_new_jax_comes_with_its_part_for_the_gpu(tmp_path, monkeypatch):
  old = {"jax": "0.7.2", "jax-cuda12-plugin": "0.7.2", "pillow": "11"}
  given = install(tmp_path, monkeypatch, old | {"scipy": "2"})
  assert given == ["jax[cuda12]<0.13,>=0.10.2", "no_such_package>=2"]


def test_what_this_session_has_loaded_needs_a_restart(tmp_path, monkeypatch):
  def pip():
    metadata = tmp_path / "loaded-0.dist-info" / "METADATA"
    metadata.write_text("Name: loaded\nVersion: 2\n")

  with pytest.raises(SystemExit, match=r"had loaded loaded .* Restart"):
    install(tmp_path, monkeypatch, {"loaded": "1"}, pip)


@pytest.mark.slow
def test_the_notebook_runs_alone(project, tmp_path):
  """In a kernel, from a folder with nothing but the notebook."""
  pytest.importorskip("nbclient", reason="nbclient is not installed")
  text = json.dumps(NOTEBOOK)
  changes = SHORTER | {json.dumps(ADDRESS)[1:-1]: f"REPOSITORY = '{project}'"}
  for old, new in changes.items():
    assert text.count(old) == 1, old
    text = text.replace(old, new)
  (tmp_path / "alone.ipynb").write_text(text)
  program = "from nbclient.cli import main; main()"
  ended = subprocess.run(
    [sys.executable, "-c", program, "--output=executed", "alone.ipynb"],
    cwd=tmp_path,
    # Optimising the programs takes longer than three steps.
    env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
    capture_output=True,
    text=True,
    timeout=900,
  )
  assert ended.returncode == 0, ended.stderr[-3000:]
  cells = json.loads((tmp_path / "executed.ipynb").read_text())["cells"]
  outputs = [x for cell in cells for x in cell.get("outputs", [])]
  printed = {"stdout": "", "stderr": ""}
  for output in outputs:
    if output["output_type"] == "stream":
      printed[output["name"]] += "".join(output["text"])
  assert printed["stderr"] == ""
  # Section 3.5 of the paper: both towers are read at these layers alone. The
  # program is compiled for 128 images.
  lines = [line.split() for line in printed["stdout"].splitlines()]
  compiled = [fields for fields in lines if "shard_map" in fields[-1]]
  assert [(fields[0], fields[1].split("{")[0]) for fields in compiled] == [
    ("all-gather", "f32[2,128,13,13,128]"),
    ("all-gather", "f32[2,128,6,6,128]"),
    ("all-gather", "f32[2,128,2048]"),
    ("all-reduce", "f32[128,1000]"),
  ]
  places = [words[:2] for words in lines if words[-1] == "bytes"]
  forward, backward = (
    [layer for phase, layer in places if phase == which]
    for which in ("forward", "backward")
  )
  assert forward == ["conv3", "fc6", "fc7", "fc8"]
  assert sorted(backward) == ["conv3", "fc6", "fc7"]
  pictures = [x for x in outputs if "image/png" in x.get("data", {})]
  assert len(pictures) == 5  # curves, kernels, a picture, a cut, its errors
