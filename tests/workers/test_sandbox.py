import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from core.errors import ModelpressError
from core.messages import LogMessage
from core.settings import settings
from tests.workers.conftest import Stage
from workers import sandbox
from workers.bubblewrap import RUNNER_UIDS
from workers.confinement import Unconfined
from workers.ending import End
from workers.sandbox import find_sandbox

ATTACKS = """
import ctypes, errno, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
KEYCTL, UNSHARE, BPF = (250, 272, 321) if os.uname().machine == "x86_64" else (219, 97, 280)
worked = []
def attempt(name, call):
    try:
        result = call()
    except (OSError, PermissionError):
        return
    if result != -1:
        worked.append(name)
attempt("user namespace", lambda: libc.unshare(0x10000000))
attempt("user namespace by syscall", lambda: libc.syscall(UNSHARE, 0x10000000))
attempt("mount", lambda: libc.mount(b"none", b"/job/tmp", b"tmpfs", 0, None))
attempt("ptrace", lambda: libc.ptrace(16, 1, 0, 0))
attempt("keyctl", lambda: libc.syscall(KEYCTL, 0, -3, 1))
attempt("bpf", lambda: libc.syscall(BPF, 0, 0, 0))
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("packet socket", lambda: socket.socket(17, socket.SOCK_RAW))
attempt("tcp socket", lambda: socket.socket(socket.AF_INET))
attempt("vsock", lambda: socket.socket(40, socket.SOCK_STREAM))
attempt("crypto socket", lambda: socket.socket(38, socket.SOCK_SEQPACKET))
attempt("set the clock", lambda: libc.settimeofday(ctypes.byref((ctypes.c_long * 2)(1, 1)), None))
attempt("become root", lambda: os.setuid(0) or 0)
attempt("chroot", lambda: os.chroot("/job/tmp") or 0)
attempt("core pattern", lambda: os.open("/proc/sys/kernel/core_pattern", os.O_WRONLY))
attempt("host name", lambda: os.open("/proc/sys/kernel/hostname", os.O_WRONLY))
attempt("sysrq", lambda: os.open("/proc/sysrq-trigger", os.O_WRONLY))
attempt("disk", lambda: os.mknod("/job/tmp/disk", 0o60666, os.makedev(254, 0)) or 0)
attempt("python", lambda: os.open(os.path.join(sys.prefix, "pyvenv.cfg"), os.O_WRONLY))
attempt("our code", lambda: os.open(__import__("core.messages").messages.__file__, os.O_WRONLY))
attempt("root folder", lambda: os.open("/new", os.O_WRONLY | os.O_CREAT))
attempt("devices", lambda: os.open("/dev/new", os.O_WRONLY | os.O_CREAT))
attempt("input", lambda: os.chmod("/job/in/0", 0o666) or 0)
attempt("request", lambda: os.open("/job/request.json", os.O_WRONLY))
attempt("measuring lock", lambda: os.open("/job/measuring.lock", os.O_WRONLY))
print(worked)
"""


class TestAttacks:
    def test_nothing_of_the_host_can_be_reached(
        self, each_stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = tmp_path / "secret"
        secret.write_text("canary")
        monkeypatch.setenv("DATABASE_URL", "postgresql://canary")
        path = str(tmp_path / "s")
        with socket.socket() as listener, socket.socket(socket.AF_UNIX) as local:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            local.bind(path)
            local.listen()
            outcome = each_stage.run(
                {
                    "probe": {
                        "files": [str(secret), "/etc/shadow", "/etc/passwd", "/root/.bashrc", __file__],
                        "writes": [str(tmp_path / "new"), "/usr/new", "/etc/new", "/job/new", "/tmp/../new"],
                        "addresses": [list(listener.getsockname()), path, ["169.254.169.254", 80]],
                    }
                },
                {"done": 1},
            )
        assert outcome.end is End.ANSWERED, outcome
        *reached, facts = [message.text for message in each_stage.heard if isinstance(message, LogMessage)]
        assert reached == []
        seen = json.loads(facts)
        assert "canary" not in facts
        assert {"PATH", "HOME", "TMPDIR"} <= set(seen["environment"])
        assert seen["processes"] <= 2  # the first of its namespace, and itself
        assert seen["uid"] in (*RUNNER_UIDS, 65_534)
        # The interpreter and our code may lie anywhere.
        shown = {Path(code).parts[1] for code in (Path(__file__).parents[2], sys.prefix, sys.base_prefix)}
        assert not {"home", "var", "opt", "srv", "mnt", "boot"} & set(seen["root"]) - shown

    def test_the_kernel_gives_nothing_away(self, each_stage: Stage) -> None:
        outcome = each_stage.run({"python": ATTACKS}, {"done": 1})
        assert outcome.end is End.ANSWERED, outcome
        assert [message.text for message in each_stage.heard if isinstance(message, LogMessage)] == ["[]"]

    def test_the_runner_is_the_first_to_be_killed_for_memory(self, each_stage: Stage) -> None:
        each_stage.run({"python": "print(open('/proc/self/oom_score_adj').read().strip())"}, {"done": 1})
        assert [message.text for message in each_stage.heard if isinstance(message, LogMessage)] == ["1000"]


class TestFindSandbox:
    def test_none_must_be_typed(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SANDBOX", "none")
        settings.cache_clear()
        found = find_sandbox()
        assert isinstance(found, Unconfined)
        outcome = Stage(found, scratch).run({"done": 1})
        assert outcome.end is End.ANSWERED

    def test_without_a_sandbox_the_worker_says_how_to_allow_one(
        self, scratch: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        # A bubblewrap that fails as it does where the kernel forbids namespaces.
        forbidden = tmp_path / "bwrap"
        forbidden.write_text("#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1\n")
        forbidden.chmod(0o755)
        monkeypatch.setattr(sandbox, "_binaries", lambda: [forbidden])
        with pytest.raises(ModelpressError) as caught:
            find_sandbox()
        assert caught.value.code == "sandbox_unavailable"
        assert "No permissions to create new namespace" in caught.value.detail
        assert "SANDBOX=none" in caught.value.hint
        assert "unprivileged_userns_clone" in caught.value.hint

    def test_without_bubblewrap(self, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sandbox, "_binaries", list)
        with pytest.raises(ModelpressError, match="no bubblewrap"):
            find_sandbox()


class TestUnconfined:
    def test_what_left_its_group_is_ended_too(self, scratch: Path) -> None:
        outcome = Stage(Unconfined(), scratch).run({"fork": 3}, {"signal": 9})
        assert outcome.end is End.SILENT
        commands = (process.info["cmdline"] or () for process in psutil.process_iter(["cmdline"]))
        assert not [command for command in commands if str(scratch) in " ".join(command)]


AS_ANOTHER = """
import os, sys
from workers.sandbox import find_sandbox
print(os.getuid(), find_sandbox())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_an_ordinary_user_gets_a_sandbox(scratch: Path) -> None:
    setpriv, bwrap = shutil.which("setpriv"), sandbox._binaries()[0]
    if setpriv is None:
        pytest.skip("setpriv is not installed")
    home = Path(sys.base_prefix)
    command = [str(bwrap), "--dev-bind", "/", "/"]
    if (top := Path("/", home.parts[1])) == Path("/root"):
        # Nobody may enter root's home; a view of the host in which only the interpreter is there.
        command += ["--tmpfs", str(top)]
        for folder in (*reversed(home.parents[:-1]), home):
            command += ["--dir", str(folder), "--chmod", "0755", str(folder)]
        command += ["--ro-bind", str(home), str(home)]
    command += [setpriv, "--reuid", "65534", "--regid", "65534", "--clear-groups", sys.executable, "-c", AS_ANOTHER]
    answer = subprocess.run(command, check=False, capture_output=True, text=True, cwd="/", timeout=60)
    assert answer.stdout.startswith("65534 "), answer.stderr
    assert "user namespace" in answer.stdout
