"""How a process finds the others: flags, and environments that JAX then reads in the same way."""

import jax
import pytest
from jax._src import clusters  # JAX's detection has no public name
from jax._src.clusters import cloud_tpu_cluster

from experiments import distributed
from experiments.cli import processes
from experiments.distributed import ONE, Distributed, found, start
from experiments.errors import UserError

SLURM = {
    "SLURM_JOB_ID": "4096",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
}
OPEN_MPI_5 = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_RANK": "1"}
OPEN_MPI = OPEN_MPI_5 | {"OMPI_MCA_orte_hnp_uri": "4096.0;tcp://10.0.0.7,10.1.0.7:34911"}
TPU = {"TPU_ML_PLATFORM": "JAX"}
GKE = TPU | {"TPU_WORKER_HOSTNAMES": "127.0.0.1,b,c,d", "TPU_WORKER_ID": "3"}
METADATA = {"agent-worker-number": "3", "worker-network-endpoints": "a:0:127.0.0.1,b:1:b,c:2:c,d:3:d", "tpu-env": ""}
CLUSTERS = [("slurm", SLURM), ("ompi", OPEN_MPI), ("gketpu", GKE), ("gcetpu", TPU)]


@pytest.fixture
def joined(monkeypatch):
    """What JAX is asked for, instead of asking it."""
    asked = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **options: asked.append(options))
    monkeypatch.setattr(jax.config, "update", lambda *args: None)
    return asked


@pytest.mark.parametrize(("method", "environment"), CLUSTERS)
def test_what_is_found_jax_reads_too(method, environment, monkeypatch):
    """The fourth process of four, by the method that was found and without naming it."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TPU_SKIP_MDS_QUERY", raising=False)
    monkeypatch.setattr(cloud_tpu_cluster, "running_in_cloud_tpu_vm", "tpu" in method)
    monkeypatch.setattr(cloud_tpu_cluster, "get_metadata", lambda key: (METADATA[key], 200))
    assert found(environment) == method
    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    for name in (method, None):
        coordinator, count, process, _ = detect(None, None, None, None, name, 1)
        assert (count, process) == (4, 3)
        assert coordinator.partition(":")[0] == {"slurm": "node07", "ompi": "10.0.0.7"}.get(method, "127.0.0.1")


@pytest.mark.parametrize(
    "environment",
    [
        {},
        SLURM | {"SLURM_STEP_NUM_TASKS": "1"},  # a shell in an allocation of four tasks
        {name: value for name, value in SLURM.items() if "STEP" not in name},  # the batch script
        {name: value for name, value in SLURM.items() if name != "SLURM_PROCID"},
        OPEN_MPI | {"OMPI_COMM_WORLD_SIZE": "1"},
        GKE | {"TPU_WORKER_HOSTNAMES": "localhost"},
        GKE | {"TPU_PROCESS_ADDRESSES": "local"},
        TPU | {"TPU_SKIP_MDS_QUERY": "1"},
    ],
)
def test_a_process_alone(environment, joined):
    assert found(environment) is None
    start(ONE, environment)
    assert not joined


def test_several_slices_of_one_host_each():
    assert found(GKE | {"TPU_WORKER_HOSTNAMES": "localhost", "MEGASCALE_NUM_SLICES": "2"}) == "gketpu"


def test_open_mpi_5_needs_help(monkeypatch):
    monkeypatch.setattr(distributed, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"install mpi4py, or give --distributed.coordinator"):
        found(OPEN_MPI_5 | SLURM)
    monkeypatch.setattr(distributed, "find_spec", lambda name: name)
    assert found(OPEN_MPI_5 | SLURM) == "mpi4py"


def test_flags_come_before_the_environment(joined):
    start(Distributed(coordinator="[::1]:1234", processes=2, process=1), SLURM)
    start(Distributed(off=True), SLURM)
    start(ONE, SLURM)
    assert [options.get("coordinator_address", options.get("cluster_detection_method")) for options in joined] == [
        "[::1]:1234",
        "slurm",
    ]
    assert (joined[0]["num_processes"], joined[0]["process_id"]) == (2, 1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"coordinator": "host:1"}, "together, got host:1, None and None"),
        ({"processes": 2, "process": 0}, "together, got None, 2 and 0"),
        ({"coordinator": "host:1", "processes": 2, "process": 2}, "got process 2, processes 2"),
        ({"coordinator": "host:1", "processes": 2, "process": -1}, "got process -1, processes 2"),
        ({"coordinator": "host:1", "processes": 0, "process": 0}, "needed 0 <= process < processes"),
        ({"coordinator": "host", "processes": 2, "process": 0}, "a coordinator HOST:PORT, .* coordinator 'host'"),
        ({"coordinator": "host:port", "processes": 2, "process": 0}, "HOST:PORT"),
    ],
)
def test_wrong_flags(flags, message, joined):
    with pytest.raises(UserError, match=message):
        start(Distributed(**flags), {})
    assert not joined


def test_what_jax_cannot_join_is_a_message(monkeypatch):
    def refuse(**_):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=r"of slurm \(coordinator_address should be defined.\); .* --distributed.off"):
        start(ONE, SLURM)


def test_the_flags_are_read_before_the_recipe():
    argv = ["digits", "--distributed.coordinator", "host:1", "--steps", "3", "--distributed.processes=2"]
    assert processes(argv) == Distributed(coordinator="host:1", processes=2)
    assert processes([*argv, "--distributed.process", "1", "--distributed.off", "--resume"]) == Distributed(
        coordinator="host:1", processes=2, process=1, off=True
    )
    assert processes(["digits"]) == ONE
    assert processes(["digits", "--help", *argv]).off
    with pytest.raises(UserError, match=r"distributed\.processes"):
        processes(["digits", "--distributed.processes", "two"])
    with pytest.raises(UserError, match=r"distributed\.proces"):
        processes(["digits", "--distributed.proces", "1"])
