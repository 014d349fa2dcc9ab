"""Several processes as one run: found in the cluster's environment or given by flags; what they do together.

Every process runs the same program. Process 0 alone writes files and pictures; all of them train and save.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.errors import UserError

T = TypeVar("T")


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
        UserError: only some of the three flags, or values that cannot be.
    """
    given = (flags.coordinator, flags.processes, flags.process)
    if flags.off or (given == (None, None, None) and not found(environment)):
        return
    if given == (None, None, None):
        jax.distributed.initialize()  # JAX reads the cluster's environment for the rest
        return
    if flags.coordinator is None or flags.processes is None or flags.process is None:
        raise UserError(
            "needed --distributed.coordinator HOST:PORT, --distributed.processes N and --distributed.process I "
            f"together, got {flags.coordinator}, {flags.processes} and {flags.process}"
        )
    if not 0 <= flags.process < flags.processes or ":" not in flags.coordinator:
        raise UserError(
            f"needed a process in 0..{flags.processes - 1} and a coordinator HOST:PORT, got {flags.process} and "
            f"{flags.coordinator!r}"
        )
    jax.distributed.initialize(flags.coordinator, flags.processes, flags.process)


def found(environment: Mapping[str, str]) -> bool:
    """Whether the environment is that of one of several processes: a Slurm step, Open MPI, or a Cloud TPU slice."""
    count = lambda name: int(environment.get(name) or 1)
    hosts = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return count("SLURM_STEP_NUM_TASKS") > 1 or count("OMPI_COMM_WORLD_SIZE") > 1 or len(hosts) > 1


def is_first() -> bool:
    """Whether this process is the one that writes."""
    return jax.process_index() == 0


def first_does(action: Callable[[], object]) -> None:
    """`action` in process 0, the others waiting; when it fails, all of them stop with an error."""
    error: Exception | None = None
    if is_first():
        try:
            action()
        except Exception as problem:
            error = problem
    failed = _agree(error is not None)
    if error is not None:
        raise error
    if failed:
        raise UserError("process 0 could not go on; its message says why")


def any_of(flag: bool) -> bool:
    """Whether `flag` is true in any process: a signal may reach one of them alone."""
    return _agree(flag)


def _agree(flag: bool) -> bool:
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
