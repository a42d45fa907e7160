"""Trains a network; the same command again resumes.

  python -m alexnet_jax.main --config=configs/NAME.py [--workdir=DIR]
      [--config.KEY=VALUE ...]

Writes config.json, metrics.jsonl, checkpoints and TensorBoard events into DIR
(default runs/NAME). A finished run only prints its table.

On several machines the same command runs on each, with one DIR that all see:
under srun, mpirun and on TPU pods as it is, elsewhere with --coordinator,
--num_processes and --process_id.
"""

from absl import flags

from alexnet_jax.runtime import command, config
from alexnet_jax.runtime.watch import Watch, leave

_CONFIG = config.DEFINE_config()
_WORKDIR = flags.DEFINE_string("workdir", "", "default: runs/NAME")
_COORDINATOR = flags.DEFINE_string(
  "coordinator", "", "several processes: HOST:PORT of number 0"
)
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", 0, "how many there are")
_PROCESS_ID = flags.DEFINE_integer("process_id", -1, "which one this is")


def main() -> None:
  with Watch(stall_minutes=0):  # a signal during the imports is heard too
    # JAX starts once the flags are good.
    from alexnet_jax.runtime import cluster, startup
    from alexnet_jax.training import train

    mesh = _CONFIG.value.mesh
    cluster.join(
      _COORDINATOR.value,
      _NUM_PROCESSES.value,
      _PROCESS_ID.value,
      mesh_devices=mesh.data * mesh.model,
    )
    startup.start()
    with cluster.parting():
      workdir = _WORKDIR.value or config.default_workdir(config.path())
      through = train.train_and_evaluate(_CONFIG.value, workdir)
    if not through and cluster.alone():
      leave(0)


if __name__ == "__main__":
  command.run(main)
