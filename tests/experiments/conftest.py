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


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """A real Slurm, as environment variables; skips where none is installed."""
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
        wait_for(lambda: "idle" in ask(environment, "sinfo", "--noheader", "--format=%T"), 60)
        yield environment
    finally:
        if len(daemons) == len(commands):
            ask(environment, "scancel", "--user", user)
            time.sleep(1)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def ask(environment, *command) -> str:
    """What a command of Slurm's prints."""
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True
    ).stdout


def wait_for(happened, seconds, describe=lambda: ""):
    """Waits until something has happened."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, describe()
        time.sleep(0.1)
