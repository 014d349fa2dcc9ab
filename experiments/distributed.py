"""Several processes as one run: found in the cluster's environment or given by flags; what they do together.

Every process runs the same program. Process 0 alone writes files and pictures; all of them train and save. They agree
through the coordination service of JAX, on the host: it waits for a process that compiles or draws for minutes, where
the first collective of gloo gives up after 30 seconds, and it does not wait for the devices.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, TypeVar

import jax

from experiments.errors import UserError

T = TypeVar("T")

_LONG = 24 * 3600 * 1000  # milliseconds; a process that died is noticed by its missing heartbeats
_ROUNDS = itertools.count()


@dataclass(frozen=True, kw_only=True)
class Distributed:
    """The processes of a run. On Slurm, Open MPI and Cloud TPU slices they are found without these flags."""

    coordinator: str | None = None
    """HOST:PORT on which process 0 can be reached by all."""
    processes: int | None = None
    """How many there are."""
    process: int | None = None
    """Which one this is, from 0."""
    off: bool = False
    """Train alone, whatever the environment says."""


ONE = Distributed()


def start(flags: Distributed, environment: Mapping[str, str] = os.environ) -> None:
    """Join the other processes, if there are any. Before anything asks for devices.

    Raises:
        UserError: only some of the three flags, values that cannot be, or a cluster that does not answer.
    """
    given = (flags.coordinator, flags.processes, flags.process)
    method = found(environment) if given == (None, None, None) and not flags.off else None
    if flags.off or (given == (None, None, None) and method is None):
        return
    if method is None:
        if flags.coordinator is None or flags.processes is None or flags.process is None:
            raise UserError(
                "needed --distributed.coordinator HOST:PORT, --distributed.processes N and --distributed.process I "
                f"together, got {flags.coordinator}, {flags.processes} and {flags.process}"
            )
        if not 0 <= flags.process < flags.processes or not flags.coordinator.rpartition(":")[2].isdigit():
            raise UserError(
                "needed 0 <= process < processes and a coordinator HOST:PORT, got process "
                f"{flags.process}, processes {flags.processes} and coordinator {flags.coordinator!r}"
            )
        where: dict[str, Any] = dict(zip(("coordinator_address", "num_processes", "process_id"), given, strict=True))
    else:
        where = {"cluster_detection_method": method}
    # A run answers SIGTERM itself; JAX's service would keep the signal from it, and from a process that still starts.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        # A process that fails alone waits this long for the others; then all of them end.
        jax.distributed.initialize(**where, shutdown_timeout_seconds=30)
    except Exception as error:
        raise UserError(
            f"could not join the other processes{f' of {method}' * bool(method)} ({error}); give "
            "--distributed.coordinator, .processes and .process, or --distributed.off to train alone"
        ) from error


def found(environment: Mapping[str, str]) -> str | None:
    """What JAX calls the cluster that started this process as one of several; None for a process alone.

    JAX detects clusters too, but takes a shell inside an allocation for one of its tasks, and would wait for the rest.

    Raises:
        UserError: Open MPI 5 without mpi4py: its environment does not say where process 0 is.
    """
    count = lambda name: int(environment.get(name) or 1)
    if count("OMPI_COMM_WORLD_SIZE") > 1:
        if "OMPI_MCA_orte_hnp_uri" in environment:
            return "ompi"
        if find_spec("mpi4py"):
            return "mpi4py"
        raise UserError(
            "Open MPI 5 does not say where process 0 is: install mpi4py, or give --distributed.coordinator HOST:PORT "
            "--distributed.processes $OMPI_COMM_WORLD_SIZE --distributed.process $OMPI_COMM_WORLD_RANK"
        )
    slurm = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
    if count("SLURM_STEP_NUM_TASKS") > 1 and all(name in environment for name in slurm):
        return "slurm"
    hosts = environment.get("TPU_PROCESS_ADDRESSES", environment.get("TPU_WORKER_HOSTNAMES"))
    if hosts is not None:
        return "gketpu" if len(hosts.split(",")) * count("MEGASCALE_NUM_SLICES") > 1 else None
    # JAX sets both at its import: the first on a TPU VM, the second where there is no TPU. The VM's metadata say the
    # rest, and that there is one host is an answer too.
    on_a_tpu = environment.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in environment
    return "gcetpu" if on_a_tpu else None


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def first_does(action: Callable[[], object]) -> None:
    """`action` in process 0, the others waiting; when it fails, all of them stop with an error."""
    all_do(action if is_first() else lambda: None)


def all_do(action: Callable[[], T]) -> T:
    """`action` in every process; when it fails in one, all of them stop with an error."""
    result: Any = None
    error: Exception | None = None
    try:
        result = action()
    except Exception as problem:
        error = problem
    failed = [i for i, answer in enumerate(_exchange("failed" if error else "")) if answer]
    if error is not None:
        raise error
    if failed:
        raise UserError(f"process {failed[0]} could not go on; its message says why")
    return result


def highest(number: int) -> int:
    """The largest of the numbers of all processes: a signal may reach one of them alone."""
    return max(map(int, _exchange(str(number))))


def from_first(text: str) -> str:
    """Process 0's text, in every process."""
    return _exchange(text if is_first() else "")[0]


def wait_for_all() -> None:
    """Return when every process has come here."""
    _exchange("")


def _exchange(text: str) -> list[str]:
    """What each process says, in every process. All must call it equally often."""
    processes = jax.process_count()
    if processes == 1:
        return [text]
    from jax._src.distributed import global_state  # Orbax takes the client from there too; no public name leads to it

    client: Any = global_state.client
    process, now = jax.process_index(), next(_ROUNDS)
    client.key_value_set(_key(now, process), text)
    client.wait_at_barrier(_key(now), _LONG)
    said = dict(client.key_value_dir_get(_key(now)))
    if now:
        client.key_value_delete(_key(now - 1, process))  # all have read it: they have come to this round
    return [said[_key(now, i)] for i in range(processes)]


def _key(number: int, process: int | None = None) -> str:
    return f"jaxdiff/{number}/{'' if process is None else process}"
