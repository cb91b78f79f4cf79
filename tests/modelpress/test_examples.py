"""The examples of the documentation, run: the README's HTTP requests and the commands of the compose file."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx
import pytest
import yaml

from launch.sockets import free_port
from tests.modelpress.conftest import ROOT, Stack

COMPOSE = ROOT / "docker-compose.yml"
VARIABLE = re.compile(r"\$\{([A-Z_]+)(?::?[-?]([^}]*))?\}")
PROGRAMS = ("setup", "api", "compute", "inspect", "dispatch")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return loaded


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's examples are typed with curl")
def test_the_requests_of_the_readme_work(stack: Stack, tmp_path: Path) -> None:
    (script,) = re.findall(r"^```bash\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    command = ["bash", "-euo", "pipefail", "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, env=stack.environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert "event: job.state" in ran.stdout
    assert "'satisfied': True" in ran.stdout
    onnx.checker.check_model(onnx.load(tmp_path / "lenet5.int8.onnx"))


def test_the_compose_file_is_valid() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_whatever_the_compose_file_names_is_defined(compose: dict[str, Any]) -> None:
    example = (ROOT / ".env.example").read_text()
    defined = set(re.findall(r"^([A-Z_]+)=", example, re.MULTILINE))
    assert {found[0] for found in VARIABLE.findall(COMPOSE.read_text())} == defined
    for name, service in compose["services"].items():
        assert set(service.get("depends_on", {})) <= set(compose["services"]), name
        volumes = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert volumes <= set(compose["volumes"]), name
        assert re.search(r":[\d.]+$", service["image"]), f"{name}: an image without a version changes under us"
        for port in service.get("ports", []):
            assert port.startswith("127.0.0.1:"), "nothing listens to the outside unless the operator says so"


def test_the_image_holds_every_package() -> None:
    copied = set(re.findall(r"^COPY (\w+) \1$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    wheel = re.search(r"^packages = (\[.*\])$", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert wheel
    assert copied == set(json.loads(wheel[1]))


@pytest.fixture
def composed(
    compose: dict[str, Any], database: str, valkey: str, tmp_path: Path
) -> tuple[dict[str, list[str]], dict[str, str], int]:
    """The command of each of our services and their environment, on the servers of the tests and a free port."""
    port = free_port()
    commands = {name: compose["services"][name]["command"] for name in PROGRAMS}
    commands = {name: [str(port) if word == "8000" else word for word in words] for name, words in commands.items()}
    given = compose["services"]["api"]["environment"]
    environment = {name: VARIABLE.sub(lambda found: found[2] or "", str(value)) for name, value in given.items()}
    environment |= {"DATABASE_URL": database, "REDIS_URL": valkey, "MODELPRESS_QUEUE_PREFIX": f"{tmp_path.name}:"}
    environment |= {"STORAGE_URL": tmp_path.as_uri(), "MODELPRESS_SCRATCH_DIR": str(tmp_path / "scratch")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return commands, {**environment, "PATH": path, "HOME": str(tmp_path)}, port


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_the_commands_of_the_compose_file_start_a_service(
    composed: tuple[dict[str, list[str]], dict[str, str], int], processes: ExitStack, tmp_path: Path
) -> None:
    commands, environment, port = composed
    prepared = subprocess.run(
        commands.pop("setup"), env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert "/sign-in?token=" in json.loads(prepared.stdout)["sign_in_url"]
    keyed = [sys.executable, "-m", "api.setup", "--key", "test"]
    key = json.loads(subprocess.run(keyed, env=environment, capture_output=True, check=True).stdout)["key"]
    for name, command in commands.items():
        log = processes.enter_context((tmp_path / f"{name}.log").open("wb"))
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=log, stderr=log)
        processes.enter_context(process)
        processes.callback(process.terminate)
    deadline = time.monotonic() + 120
    while len(workers(port, key)) < 3:
        assert time.monotonic() < deadline, {name: (tmp_path / f"{name}.log").read_text() for name in commands}
        time.sleep(0.2)


def workers(port: int, key: str) -> list[dict[str, Any]]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/system", headers={"Authorization": f"Bearer {key}"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: list[dict[str, Any]] = json.load(answer)["workers"]
            return found
    except (urllib.error.URLError, OSError):
        return []


def test_the_modules_of_the_commands_exist() -> None:
    for module in ("api.setup", "api.app", "workers.app", "workers.dispatch", "modelpress.__main__", "runner.__main__"):
        assert find_spec(module), module
