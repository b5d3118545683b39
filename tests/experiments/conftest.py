"""Sweep files of tiny runs, and a Slurm of this machine alone."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
ReturnToService=2
SlurmdParameters=config_overrides
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=8000 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES State=UP PriorityTier=1 GraceTime=300 PreemptMode=REQUEUE
PartitionName=high Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""


def free_ports(number: int) -> list[int]:
    """Numbers of ports that nobody listens to."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("localhost", 0))
        return [each.getsockname()[1] for each in sockets]


class Slurm:
    """A Slurm that runs: its environment variables, and its commands."""

    def __init__(self, environment):
        """Keeps what processes need to find it."""
        self.environment = environment

    def ask(self, *command) -> str:
        """What a command prints."""
        return subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=600
        ).stdout


@pytest.fixture(scope="session")
def wait_for():
    """A function that waits until something has happened."""

    def wait(happened, seconds=1200):
        end = time.monotonic() + seconds
        while not happened():
            assert time.monotonic() < end, f"nothing happened in {seconds} s"
            time.sleep(0.1)

    return wait


@pytest.fixture
def tiny_sweep(program, tmp_path):
    """A function (get_hyper's last expression, fields) that writes a sweep file of tiny runs."""

    def write(cells, **fields) -> Path:
        fields = program.tiny_fields | {
            "recognize.arms": ("synthetic_only",),
            "privacy.attacks": (),
            "reinforce.iterations": 1,
            **fields,
        }
        path = tmp_path / "tiny_sweep.py"
        path.write_text(
            f"""
BASE = {str(ROOT / "configs" / "quickstart.py:ci")!r}
FIELDS = {fields!r}


def get_hyper(hyper):
    common = hyper.product([hyper.fixed(field, value) for field, value in FIELDS.items()])
    return hyper.product([common, {cells}])
"""
        )
        return path

    return write


@pytest.fixture(scope="module")
def slurm(tmp_path_factory, wait_for):
    """A real Slurm; skips where none is installed."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    for program in ("sbatch", "srun", "slurmctld", "slurmd", "munged"):
        if not shutil.which(program, path=path):
            pytest.skip(f"Slurm is not installed: there is no {program}")
    pytest.importorskip("submitit", reason="pip install -e '.[slurm]'")
    folder = tmp_path_factory.mktemp("slurm")
    folder.chmod(0o755)
    for name in ("state", "spool"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o400)
    host, user = socket.gethostname().partition(".")[0], getpass.getuser()
    (folder / "slurm.conf").write_text(
        SLURM_CONF.format(folder=folder, host=host, user=user, ports=free_ports(2))
    )
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    files = ("key-file", "log-file", "pid-file", "seed-file")
    munge = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in files]
    munge.append(f"--socket={folder}/munge.sock")
    commands = (
        ["munged", "--force", "--foreground", *munge],
        ["slurmctld", "-D"],
        ["slurmd", "-D"],
    )
    daemons = []
    try:
        for command in commands:
            log = open(folder / f"{command[0]}.out", "w")
            daemons.append(
                subprocess.Popen(
                    command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT
                )
            )
            time.sleep(1)
        cluster = Slurm(environment)
        wait_for(lambda: "idle" in cluster.ask("sinfo", "--noheader", "--format=%T"), 120)
        yield cluster
    finally:
        if len(daemons) == len(commands):
            Slurm(environment).ask("scancel", "--user", user)
            time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()
