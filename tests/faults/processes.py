"""One of two to four processes of a run is killed, in each phase."""

import functools
import pathlib
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterator

from .sandbox import Process, difference, outcome
from .trial import EQUAL, Case, Row, Suite, Trial

# A batch that two, three and four processes can divide.
FLAGS = (
  "--config.batch_size=12",
  "--config.total_steps=12",
  "--config.eval_every_epochs=1",  # 8 steps
  "--join_timeout=30",
)
MESHES = {2: (1, 2), 3: (3, 1), 4: (2, 2)}  # data x model, by processes

# The fault that makes a phase long enough, what process 0 prints when it
# begins, and the seconds within which another process is killed. Nothing is
# printed before all have started.
PHASES = {
  "starting": ("", "", 2.5),
  "statistics": ("slow=0.02", r"ln\(10\)", 0.8),
  "compiling": ("", r"ln\(10\)", 2.0),
  "saving": ("slow=0.01", r"^step 4/", 0.1),
  "waiting for images": ("block=72", r"^step \d+/", 3.0),
  "training": ("slow=0.005", r"^step [2-6]/", 0.05),
  "evaluating": ("slow=0.02", r"^step 8/", 0.3),
}
# What the processes that are left may say.
REASONS = (
  "is exiting because another process died",
  "indicates that another task died",  # from XLA, which aborts
  "did not reach process 0",
  "process 0 did not answer",
  "ended while the run waited",
  "before all",
)
# JAX calls a process dead after 60 seconds of silence; a busy machine is late.
END_SECONDS = 150

_references = threading.Lock()


def processes(suite: Suite, long: bool) -> Iterator[Case]:
  """SIGKILL of one process; the others end, and all together resume."""
  chosen = [(2, "starting"), (2, "saving")]
  if long:
    chosen = [(count, phase) for phase in PHASES for count in MESHES]
  for count, phase in chosen:
    # The first process is different: it has the service that joins them.
    first = list(PHASES).index(phase) % 2 == 0
    case = functools.partial(_kill_one, count=count, phase=phase, first=first)
    yield f"one of {count} processes killed, {phase}", case


def _start(
  trial: Trial, workdir: str, count: int, phase: str = ""
) -> list[Process]:
  """Starts all processes of a run, as quickly as the phase allows."""
  anew = phase in ("statistics", "compiling")
  with socket.socket() as free:
    free.bind(("localhost", 0))
    port = free.getsockname()[1]
  data, model = MESHES[count]
  flags = (
    *FLAGS,
    f"--config.mesh.data={data}",
    f"--config.mesh.model={model}",
    f"--coordinator=localhost:{port}",
    f"--num_processes={count}",
  )
  return [
    trial.sandbox.start(
      workdir,
      *flags,
      f"--process_id={index}",
      fault=PHASES[phase][0] if phase else "",
      compile_anew=anew,
      cache=f"cache-{pathlib.Path(workdir).name}" if anew else "cache",
      forked=not anew,
    )
    for index in range(count)
  ]


def _finish(trial: Trial, workdir: str, count: int) -> None:
  members = _start(trial, workdir, count)
  statuses = [process.end() for process in members]
  output = "".join(process.output() for process in members)
  assert set(statuses) == {0}, output


def _expected(trial: Trial, count: int) -> tuple:
  """The outcome of an uninterrupted run of so many processes."""
  workdir = f"{trial.whole}-{count}-processes"
  with _references:
    done = pathlib.Path(f"{workdir}.done")
    if not done.exists():
      shutil.rmtree(workdir, ignore_errors=True)
      _finish(trial, workdir, count)
      done.touch()
  return outcome(workdir)


def _kill_one(trial: Trial, count: int, phase: str, first: bool) -> Row:
  expected = _expected(trial, count)
  workdir = trial.new_workdir()
  _, pattern, span = PHASES[phase]
  members = _start(trial, workdir, count, phase)
  dying = members[0 if first else trial.random.randrange(1, count)]
  others = [process for process in members if process is not dying]
  if pattern:
    members[0].until(pattern)
  else:
    while not dying.handles(signal.SIGTERM):
      time.sleep(0.01)
  time.sleep(trial.random.uniform(0, span))
  dying.end(signal.SIGKILL)
  killed, wrong = time.monotonic(), []
  for process in others:
    status, output = process.end(), process.output()
    if status == 0 or "Traceback" in output:
      wrong.append(f"status {status}: {output[-1000:]}")
    elif not any(reason in output for reason in REASONS):
      wrong.append(f"no reason: {output[-1000:]}")
  seconds = time.monotonic() - killed
  if seconds > END_SECONDS:
    wrong.append(f"the others ended after {seconds:.0f} s")
  _finish(trial, workdir, count)
  result = "\n".join(wrong) or difference(workdir, expected) or EQUAL
  shutil.rmtree(workdir)
  return {
    "fault": f"one of {count} processes killed",
    "at": f"{phase}, {'the first' if first else 'another'}",
    "status": others[0].status,
    "result": result,
    "seconds": round(seconds, 1),
  }
