"""Trains a network. Run the same command again to resume.

  python -m alexnet_jax.main --config=configs/NAME.py [--workdir=DIR]
      [--config.KEY=VALUE ...]

Writes config.json, metrics.jsonl, checkpoints and TensorBoard events to DIR
(default: runs/NAME). For a run that has finished, only prints its table. With
--config.report_at_end (configs/quickstart.py) it also writes report.html.

To train on several machines, run the same command on each, with a DIR that all
of them can access. Under srun or mpirun and on TPU pods no other flag is
needed; elsewhere pass --coordinator, --num_processes and --process_id.
docs/cluster.md has examples.
"""

import os
import pathlib

from absl import flags

from alexnet_jax.runtime import command, config, paths
from alexnet_jax.runtime.command import UserError
from alexnet_jax.runtime.progress import waiting
from alexnet_jax.runtime.watch import Watch, exit_now

_CONFIG = config.DEFINE_config()
_WORKDIR = paths.DEFINE_path(
  "workdir", "", "run directory (default: runs/NAME)"
)
_COORDINATOR = flags.DEFINE_string(
  "coordinator", "", "HOST:PORT of process 0, if there are several processes"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "number of processes")
_PROCESS_ID = flags.DEFINE_integer(
  "process_id", -1, "index of this process, from 0"
)
_JOIN_TIMEOUT = flags.DEFINE_float(
  "join_timeout", 120, "seconds that each process waits for the others to start"
)


def main() -> None:
  with Watch(stall_minutes=0):  # signals work during the imports too
    # Imported here, so that JAX is loaded only if the flags are valid.
    from alexnet_jax.runtime import processes
    from alexnet_jax.training import loop

    workdir = _WORKDIR.value or config.default_workdir(config.path())
    if not os.path.isdir(workdir):  # one that exists may hold a finished run
      paths.check_output_folder(workdir, "--workdir")
    mesh = _CONFIG.value.mesh
    members = _COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value
    processes.join(
      *members,
      mesh_devices=mesh.data * mesh.model,
      timeout=_JOIN_TIMEOUT.value,
    )
    processes.configure()
    with processes.exit_on_error():
      finished = loop.train_and_evaluate(_CONFIG.value, workdir)
    if not finished and processes.is_single_process():
      exit_now(0)
  # Outside of the watch: there is no training to save any more.
  if _CONFIG.value.report_at_end and processes.is_single_process():
    _print_next_steps(workdir)


def _print_next_steps(workdir: str) -> None:
  """Writes the report of a finished run, and says what to do with the run."""
  from alexnet_jax.analysis import next_steps

  values = config.to_json(_CONFIG.value)
  name = pathlib.Path(config.path()).stem
  try:
    with waiting("writing the report"):
      text = next_steps.write(workdir, values, name)
  except (UserError, OSError) as error:  # the training is complete all the same
    text = f"warning: the report could not be written: {error}"
  print(text)


if __name__ == "__main__":
  command.run(main, prints_progress=True)
