"""A real Slurm of one machine: munge, slurmctld and slurmd are started, a config runs through them.

Needs Debian's slurm-wlm and munge, root, and `pip install snakemake-executor-plugin-slurm`.
"""

import importlib.util
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from test_door import TRAIN, House, write

pytestmark = pytest.mark.slow
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel")
PROFILE = Path(__file__).resolve().parents[1] / "workflow" / "profiles" / "slurm" / "config.yaml"
CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
# one of the trainings waits for a file, so that it can be killed before it is done
WAITS = """
import pathlib, time
if model == "thin+copy":
    pathlib.Path(output_dir, "begun.txt").open("a").write("x")
    while not pathlib.Path(go).is_file():
        time.sleep(0.5)
"""


def missing() -> str | None:
    """Why there can be no Slurm here."""
    absent = [name for name in PROGRAMS if not shutil.which(name)]
    if absent:
        return f"{', '.join(absent)} not installed (apt install slurm-wlm munge)"
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        return "snakemake-executor-plugin-slurm is not installed (pip install it)"
    return None if os.geteuid() == 0 else "starting Slurm's daemons takes root"


def free_ports(n: int) -> list[int]:
    found = [socket.socket() for _ in range(n)]
    for one in found:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in found]
    for one in found:
        one.close()
    return ports


def wait_for(what, seconds: float = 120) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.5)


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """The daemons, as long as a test lives; the folder of their logs."""
    if reason := missing():
        pytest.skip(reason)
    folder, host = tmp_path / "slurm", socket.gethostname().split(".")[0]
    (folder / "state").mkdir(parents=True)
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    about = {"folder": folder, "host": host, "ports": free_ports(2), "cpus": os.cpu_count()}
    (folder / "slurm.conf").write_text(CONF.format(**about))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    srun = folder / "bin" / "srun"  # the plugin takes SLURM_... out of a job's environment
    srun.parent.mkdir()
    real = f'SLURM_CONF={folder}/slurm.conf exec {shutil.which("srun")} "$@"'
    srun.write_text(f"#!/bin/sh\n{real}\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", str(srun.parent), prepend=os.pathsep)
    places = {"socket": "socket", "key-file": "key", "pid-file": "pid"}
    places |= {"log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={folder}/munge.{end}" for name, end in places.items()]
    daemons = [["munged", "-F", "--force", *options], ["slurmctld", "-D"]]
    daemons += [["slurmd", "-D", "-N", host]]
    started = []
    try:
        for command in daemons:
            out = (folder / f"{command[0]}.out").open("w")
            started.append(subprocess.Popen(command, stdout=out, stderr=out))
            time.sleep(2)
        wait_for(lambda: "idle" in said("sinfo", "-h", "-o", "%T"), 60)
        yield folder
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.fixture
def cluster(slurm, tmp_path):
    """A house, and the committed profile without what this machine has not: a GPU and time."""
    house = House(tmp_path)
    profile = yaml.safe_load(PROFILE.read_text())
    assert profile["set-resources"]["30_train"].pop("gres") == "gpu:1"
    small = {"runtime": 10, "mem_mb": 500, "cpus_per_task": 1}
    profile["default-resources"] |= small
    profile["set-resources"]["30_train"] |= small
    profile |= {"slurm-status-command": "squeue", "slurm-no-account": True}
    profile |= {"slurm-init-seconds-before-status-checks": 2, "latency-wait": 20}
    place = tmp_path / "profile"
    place.mkdir()
    (place / "config.yaml").write_text(yaml.safe_dump(profile))
    return house, ["--", "--profile", str(place)]


def test_the_committed_profile_parses(tmp_path):
    if importlib.util.find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed")
    house = House(tmp_path)
    status, output = house("--dry-run", "--", "--profile", str(PROFILE.parent))
    assert status == 0 and "4 steps would run" in output


def test_a_config_runs_on_it_and_a_killed_job_is_resumed(cluster):
    house, profile = cluster
    go = house.folder / "go"
    write(house.notebooks / "30_train.ipynb", WAITS.replace("go)", f"{str(go)!r})"), TRAIN)
    run = house.out / "runs" / "synthetic" / "thin+copy" / "s0"
    first = house.start(*profile)
    others = [house.out / "runs" / "synthetic" / "thin+sdi" / "s0" / "metrics.json"]
    others += [house.out / "start" / "00_start.ipynb", run / "begun.txt"]
    wait_for(lambda: all(p.is_file() for p in others) or first.poll() is not None, 300)
    assert first.poll() is None, first.communicate()[0]
    wait_for(lambda: len(said("squeue", "-h", "-o", "%i").split()) == 1, 120)
    (running,) = said("squeue", "-h", "-t", "R", "-o", "%i").split()
    said("scancel", running)
    output = first.communicate(timeout=240)[0]
    assert first.returncode == 1, output
    assert "30_train synthetic/thin+copy/s0 ... FAILED" in output
    assert "2 of 4 steps done, 1 failed, 1 not run" in output, "00_start and the other training"

    go.touch()
    status, output = house(*profile)
    assert status == 0 and "2 of 2 steps done" in output, output
    assert (run / "begun.txt").read_text() == "xx", "in the same folder, as a resumed training"
    assert (house.out / "compare" / "40_compare.ipynb").is_file()
    assert house(*profile)[1].endswith("nothing to do: all steps are done\n")
