"""Clusters as JAX detects them, by variables and by a metadata server."""

import contextlib
import http.server
import os
import threading
from typing import ClassVar

import jax
import pytest
from jax._src import cloud_tpu_init
from jax._src.clusters import cloud_tpu_cluster

from alexnet_jax.model import sharding
from alexnet_jax.runtime import cluster, processes
from alexnet_jax.runtime.cluster import Place
from alexnet_jax.runtime.command import UserError

SLURM = {
  "SLURM_JOB_ID": "4711",
  "SLURM_STEP_ID": "0",
  "SLURM_STEP_NODELIST": "node[07-09],other",
  "SLURM_NTASKS": "4",
  "SLURM_STEP_NUM_TASKS": "4",
  "SLURM_PROCID": "2",
  "SLURM_LOCALID": "0",
}
OPEN_MPI = {
  "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://127.0.0.1:34911",
  "OMPI_COMM_WORLD_SIZE": "2",
  "OMPI_COMM_WORLD_RANK": "1",
  "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


@pytest.fixture(autouse=True)
def environment(monkeypatch):
  """Without variables of launchers; returns a function that sets some."""
  names = (*cluster.SIZES, *cluster.TPU_HOSTS)
  prefixes = ("SLURM", "OMPI", "MEGASCALE", "KUBERNETES", "JAX_COORDINATOR")
  for name in list(os.environ):
    if name.startswith(prefixes) or name in names:
      monkeypatch.delenv(name)

  def set_all(variables):
    for name, value in variables.items():
      monkeypatch.setenv(name, value)

  return set_all


def test_nothing_is_found_where_nothing_is():
  assert cluster.find(1) is None


def test_srun_and_mpirun(environment):
  environment(SLURM)
  port = 65535 - 2**12 + 1 + 4711 % 2**12  # as JAX derives it from the job
  assert cluster.find(1) == Place(f"node07:{port}", 4, 2, [0])
  environment(OPEN_MPI)  # inside of a SLURM job
  place = cluster.find(1)
  assert place.coordinator.startswith("127.0.0.1:")
  assert place[1:] == (2, 1, [1])


def test_a_step_of_one_task_is_alone(environment):
  environment(SLURM | {"SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1"})
  assert cluster.find(1) is None


def test_a_batch_script_without_srun_is_alone_and_says_so(environment, capsys):
  environment({"SLURM_JOB_ID": "4711", "SLURM_NTASKS": "2"})
  assert cluster.find(1) is None
  assert "put `srun` before the command" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("variables", "expected"),
  [
    ({"SLURM_STEP_NUM_TASKS": "4"}, "4 processes .*srun.* finds no cluster"),
    ({"OMPI_COMM_WORLD_SIZE": "2"}, "2 processes .*set by Open MPI"),
    ({"PMI_SIZE": "3"}, "3 processes .*mpiexec"),
    ({"WORLD_SIZE": "2"}, "2 processes .*torchrun"),
    ({"TPU_WORKER_HOSTNAMES": "a,b,c"}, "3 processes .*HOSTNAMES=a,b,c"),
    ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "2 processes .*ADDRESSES=a:1,b:1"),
    (
      {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"},
      "2 processes .*HOSTNAMES=a",
    ),
    (SLURM | {"SLURM_NTASKS": "2"}, "4 processes .* but JAX finds 2"),
  ],
)
def test_more_processes_than_jax_finds_are_refused(
  variables, expected, environment
):
  environment(variables)
  with pytest.raises(UserError, match=expected):
    cluster.find(1)
  processes.join(num_processes=1)  # alone on purpose
  assert processes.is_single_process()


def wrong_environments():
  for value in ("", "x", "0", "-1", "2.5"):
    yield {"SLURM_STEP_NUM_TASKS": value}
    yield {"OMPI_COMM_WORLD_SIZE": value}
  for name in SLURM:
    if name not in ("SLURM_STEP_ID", "SLURM_STEP_NODELIST"):
      yield SLURM | {name: ""}
      yield SLURM | {name: "x"}
  yield {x: value for x, value in OPEN_MPI.items() if not x.endswith("SIZE")}
  yield OPEN_MPI | {"OMPI_MCA_orte_hnp_uri": ""}
  yield {"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "x"}


def test_empty_wrong_and_missing_variables_are_a_sentence(monkeypatch):
  for variables in wrong_environments():
    with monkeypatch.context() as patch:
      for name, value in variables.items():
        patch.setenv(name, value)
      with pytest.raises(UserError, match="--num_processes=1 to train in this"):
        cluster.find(1)


def test_the_message_shows_what_the_launcher_set(environment):
  environment(SLURM | {"SLURM_PROCID": "", "SLURM_CONF": "/etc/slurm.conf"})
  with pytest.raises(UserError) as caught:
    cluster.find(1)
  message = str(caught.value)
  assert "SLURM_JOB_ID='4711', SLURM_LOCALID='0', SLURM_NTASKS='4'" in message
  assert "SLURM_PROCID=''" in message and "slurm.conf" not in message


class Metadata(http.server.BaseHTTPRequestHandler):
  """The metadata server of a TPU VM."""

  attributes: ClassVar[dict[str, str]] = {}  # set by the test

  def do_GET(self):
    name = self.path.rpartition("/")[2]
    found = name in self.attributes or not name
    self.send_response(200 if found else 404)
    self.end_headers()
    self.wfile.write(self.attributes.get(name, "").encode())

  def log_message(self, *arguments):
    pass


@contextlib.contextmanager
def serving(handler):
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture
def tpu_vm(monkeypatch):
  """As if this machine had TPU chips."""
  monkeypatch.setattr(cloud_tpu_init, "running_in_cloud_tpu_vm", True)
  monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", True)
  monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)


def test_a_cloud_tpu_pod(tpu_vm, monkeypatch):
  """No variable is set: JAX asks the metadata server."""
  Metadata.attributes = {
    "agent-worker-number": "1",
    "worker-network-endpoints": "x:y:127.0.0.1,x:y:127.0.0.2",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-16'\n",
  }
  with serving(Metadata) as host:
    monkeypatch.setenv("GCE_METADATA_IP", host)
    assert cluster.find(5) == Place("127.0.0.1:8482", 2, 1, None)
    Metadata.attributes["worker-network-endpoints"] = "x:y:127.0.0.1"
    assert cluster.find(5) is None  # one host


@pytest.fixture
def no_metadata(tpu_vm, monkeypatch):
  monkeypatch.setenv("GCE_METADATA_IP", "127.0.0.1:9")  # nothing listens


@pytest.mark.parametrize("variable", cluster.TPU_HOSTS)
def test_gke_without_a_metadata_server(
  variable, no_metadata, environment, monkeypatch
):
  environment({variable: "localhost,other", "TPU_WORKER_ID": "1"})
  assert cluster.find(5) == Place("localhost:8482", 2, 1, None)
  for name in ("MEGASCALE_NUM_SLICES", "TPU_SKIP_MDS_QUERY"):
    assert name not in os.environ  # as before
  monkeypatch.setenv("TPU_WORKER_ID", "")
  with pytest.raises(UserError, match="TPU_WORKER_ID=''"):
    cluster.find(5)


def test_a_tpu_vm_without_a_metadata_server_warns(no_metadata, capsys):
  assert cluster.find(5) is None
  assert "does not answer, so this process trains alone" in (
    capsys.readouterr().err
  )


def test_a_metadata_server_that_never_answers_holds_nobody(monkeypatch):
  class Silent(Metadata):
    def do_GET(self):
      done.wait(60)

  done = threading.Event()
  with serving(Silent) as host:
    monkeypatch.setenv("GCE_METADATA_IP", host)
    assert not cluster._answers(timeout=0.2)
    done.set()


def test_a_pod_that_was_not_joined_is_noticed(monkeypatch):
  sharding.make_mesh(1, 1)
  monkeypatch.setattr(jax, "process_count", lambda: 4)
  with pytest.raises(UserError, match="a pod of 4 hosts"):
    sharding.make_mesh(1, 1)
