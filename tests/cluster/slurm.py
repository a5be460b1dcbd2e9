"""A SLURM cluster of two nodes on this machine alone: its own munge, controller and two node daemons, in a folder of its own.

    python tests/cluster/slurm.py srun --nodes=2 --ntasks-per-node=1 hostname

runs a command there. It needs `apt-get install slurm-wlm munge`, and no rights: daemons and jobs run as whoever calls.
"""

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PATH = f"{os.environ['PATH']}{os.pathsep}/usr/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "srun") if shutil.which(name, path=PATH) is None]

# cred_expire, sched_interval, bf_interval: so many seconds a job waits that is put back into the queue. KillWait: from SIGTERM
# to SIGKILL. The other times are for a machine so busy that daemons do not answer within the seconds that are the default.
CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
KillWait=600
MessageTimeout=60
TCPTimeout=60
BatchStartTimeout=600
SlurmdTimeout=0
UnkillableStepTimeout=300
NodeName=n0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=ALL Default=YES State=UP
"""
MUNGE = {"key-file": "key", "socket": "munge.socket", "pid-file": "pid", "log-file": "munge.log", "seed-file": "seed"}


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Starts the daemons and yields the environment in which SLURM's commands find them; at the end stops jobs and daemons.

    Raises:
        TimeoutError: The nodes are not ready within five minutes; the message holds what the daemons said.
    """
    with tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as name, contextlib.ExitStack() as daemons:
        folder = Path(name)  # not pytest's: the path of a socket has 107 characters at most
        (folder / "state").mkdir()
        (folder / "key").write_bytes(secrets.token_bytes(128))
        (folder / "key").chmod(0o400)
        config = CONFIG.format(host=socket.gethostname(), user=getpass.getuser(), folder=folder, ports=free_ports(3))
        (folder / "slurm.conf").write_text(config)
        environ = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        environ |= {"PATH": PATH, "SLURM_CONF": f"{folder}/slurm.conf", "MASTER_ADDR": "127.0.0.1"}  # no name server has n0
        munged = ["munged", "--foreground", "--force", *(f"--{option}={folder / file}" for option, file in MUNGE.items())]
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D", "-N", "n0"], ["slurmd", "-D", "-N", "n1"]):
            daemons.enter_context(daemon(command, environ, folder / "log"))
        wait_for(lambda: ask(environ, "sinfo", "--noheader", "--states=idle", "--format=%D") == "2", 300, folder / "log")
        try:
            yield environ
        finally:
            ask(environ, "scancel", f"--user={getpass.getuser()}", "--signal=KILL", "--full")
            ask(environ, "scancel", f"--user={getpass.getuser()}")  # those that wait in the queue
            wait_for(lambda: ask(environ, "squeue", "--noheader") == "", 300, folder / "log")


@contextlib.contextmanager
def daemon(command: list[str], environ: dict[str, str], log: Path) -> Iterator[None]:
    """Runs a program until the end of the context."""
    with log.open("ab") as file, subprocess.Popen(command, env=environ, stdout=file, stderr=file) as process:
        try:
            yield
        finally:
            process.terminate()


def ask(environ: dict[str, str], *command: str) -> str:
    """Returns what a command prints, stripped; of one that fails, its status and what it says of that."""
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    return f"status {done.returncode}: {done.stderr}" if done.returncode else done.stdout.strip()


def wait_for(condition: Callable[[], bool], seconds: float, log: Path) -> None:
    """Waits until a condition holds.

    Raises:
        TimeoutError: It does not for that long; the message holds the end of `log`.
    """
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"waited for {seconds} s:\n{log.read_text()[-4000:] if log.exists() else ''}")
        time.sleep(0.2)


def free_ports(count: int) -> list[int]:
    """Returns numbers of ports that nobody listens at."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


if __name__ == "__main__":
    if MISSING:
        sys.exit(f"{', '.join(MISSING)} must be installed: apt-get install slurm-wlm munge")
    with cluster() as environ:
        sys.exit(subprocess.run(sys.argv[1:], env=environ, check=False).returncode)
