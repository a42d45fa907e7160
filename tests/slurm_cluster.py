"""A real SLURM cluster of three nodes on this machine, for tests.

The daemons are Debian's (`slurm-wlm` and `munge`), on loopback addresses and
free ports, with everything they write in one folder. They need root.
"""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

# Names that are addresses: JAX asks the first node for the others, by name.
NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3")
PROGRAMS = ("slurmctld", "slurmd", "munged", "mpirun")

CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MailProg=/bin/true
# No systemd, no control groups, no accounting.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=30
# A busy machine is no reason to declare a node dead.
SlurmdTimeout=300
SchedulerParameters=bf_interval=1,sched_min_interval=500000,sched_interval=2
{nodes}
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
  """Why there can be no cluster on this machine; "" if there can."""
  path = f"{os.environ.get('PATH', '')}:/usr/sbin"
  absent = [name for name in PROGRAMS if not shutil.which(name, path=path)]
  if absent:
    return (
      f"SLURM is absent ({', '.join(absent)}): apt-get install slurm-wlm munge"
      " openmpi-bin"
    )
  return "" if os.geteuid() == 0 else "SLURM's daemons need root"


class Cluster:
  """Context manager; afterwards no process of the cluster is left."""

  def __init__(self, folder: pathlib.Path):
    self.folder = folder
    self._path = f"{os.environ['PATH']}:/usr/sbin"
    self.environment = os.environ | {
      "SLURM_CONF": str(folder / "slurm.conf"),
      "PATH": self._path,
    }

  def __enter__(self) -> "Cluster":
    folder = self.folder
    (folder / "state").mkdir(parents=True)
    (folder / "spool").mkdir()
    nodes = [
      f"NodeName={name} NodeHostname=localhost NodeAddr=127.0.0.1"
      f" Port={_free_port()} CPUs=4"
      for name in NODES
    ]
    (folder / "slurm.conf").write_text(
      CONFIG.format(
        folder=folder, controller_port=_free_port(), nodes="\n".join(nodes)
      )
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    try:
      self.run(
        "munged",
        f"--key-file={key}",
        f"--seed-file={folder}/munge.seed",
        *(f"--{x}-file={folder}/munged.{x}" for x in ("pid", "log")),
        f"--socket={folder}/munge.sock",
        "--force",  # the folder is in /tmp, which all users may write
      )
      self.run("slurmctld")
      for node in NODES:
        self.start_node(node)
      self.wait_until(lambda: self.num_idle() == len(NODES), "idle nodes")
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *exception) -> None:
    jobs = self.run("squeue", "-h", "-o", "%A", check=False).split()
    if jobs:
      self.run("scancel", "--signal=KILL", "--full", *jobs, check=False)
      self.run("scancel", *jobs, check=False)
    for node in NODES:
      self.kill_node(node)
    for file in ("slurmctld.pid", "munged.pid"):
      self._kill(self.folder / file)

  def run(self, *words: str, check: bool = True) -> str:
    """Runs a command of SLURM; returns its stdout."""
    done = subprocess.run(
      words,
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == 0 or not check, (words, done.stdout, done.stderr)
    return done.stdout

  def start_node(self, node: str) -> None:
    self.run("slurmd", "-N", node)

  def kill_node(self, node: str) -> None:
    """What a power failure does: kills the daemon and all jobs of a node."""
    self._kill(self.folder / f"slurmd-{node}.pid")
    # First, or what is left of the daemon reports the end of the jobs.
    down = ("scontrol", "update", f"NodeName={node}", "State=DOWN")
    self.run(*down, "Reason=power", check=False)
    spool = str(self.folder / "spool" / node)
    for process in pathlib.Path("/proc").iterdir():
      if not process.name.isdigit():
        continue
      try:
        environment = (process / "environ").read_bytes()
        files = [os.readlink(file) for file in (process / "fd").iterdir()]
      except OSError:
        continue
      variables = environment.split(b"\0")
      of_task = (
        f"SLURMD_NODENAME={node}".encode() in variables
        and f"SLURM_CONF={self.folder}/slurm.conf".encode() in variables
      )
      of_daemon = any(file.startswith(spool) for file in files)
      if of_task or of_daemon:
        _signal(int(process.name))

  def num_idle(self) -> int:
    lines = self.run("sinfo", "-h", "-N", "-o", "%t", check=False)
    return lines.split().count("idle")

  def state(self, job: str) -> dict[str, str]:
    """What SLURM knows of a job, such as JobState and Restarts."""
    text = self.run("scontrol", "-o", "show", "job", job, check=False)
    return dict(re.findall(r"(\w+)=(\S*)", text))

  def submit(self, *words: str, cwd: pathlib.Path, **variables: str) -> str:
    """`sbatch` with these words; returns the number of the job."""
    done = subprocess.run(
      ["sbatch", "--parsable", *words],
      env=self.environment | variables,
      cwd=cwd,
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()

  def wait_until(self, true, what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not true():
      assert time.monotonic() < deadline, f"no {what}:\n{self.logs()}"
      time.sleep(0.3)

  def finish(self, job: str) -> dict[str, str]:
    """Waits for the end of a job, over any number of restarts."""
    ended = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    self.wait_until(
      lambda: self.state(job)["JobState"] in ended, f"end of {job}"
    )
    return self.state(job)

  def logs(self) -> str:
    """The ends of the daemons' logs, and the queue."""
    ends = [
      f"{path.name}:\n{path.read_text(errors='replace')[-2000:]}"
      for path in sorted(self.folder.glob("*.log"))
    ]
    return "\n".join([self.run("squeue", check=False), *ends])

  def _kill(self, pid_file: pathlib.Path) -> None:
    if pid_file.exists():
      _signal(int(pid_file.read_text()))
      pid_file.unlink(missing_ok=True)


def _signal(pid: int) -> None:
  try:
    os.kill(pid, signal.SIGKILL)
  except ProcessLookupError:
    return


def _free_port() -> int:
  with socket.socket() as free:
    free.bind(("localhost", 0))
    return free.getsockname()[1]
