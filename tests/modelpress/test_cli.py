"""The command line against a whole service, as a user types it: exit codes, JSON, tables, files."""

import hashlib
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from modelpress.client import Client
from tests.modelpress.conftest import ROOT, Run

DEMO = ROOT / "demo"
MNIST = "x layout=NHW scale=1/255 mean=0.5 std=0.5"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_the_path_from_upload_to_file(modelpress: Run, tmp_path: Path) -> None:
    uploaded = modelpress("upload", DEMO / "lenet5.onnx", "--json")
    assert uploaded.returncode == 0, uploaded.stderr
    model = json.loads(uploaded.stdout)
    assert model["state"] == "ready"
    assert model["capabilities"]["quantize.linear"]["ok"]
    shown = modelpress("upload", "--dataset", DEMO / "mnist.npz", "--input", MNIST)
    assert "evaluation: 2,000 samples (0: " in shown.stdout
    dataset = shown.stdout.split()[0]

    asked = ("run", DEMO / "recipe.yaml", "--model", model["id"], "--dataset", dataset, "--max-drop", "0.05")
    plan = modelpress(*asked, "--dry-run")
    assert "quantize.linear" in plan.stdout, plan.stderr
    ran = modelpress(*asked, "--watch", "--json")
    assert ran.returncode == 0, ran.stderr
    job = json.loads(ran.stdout)
    assert job["verdict"]["satisfied"]
    assert job["constraints"]["max_drop"] == 0.05

    table = modelpress("verdict", job["id"])
    assert table.returncode == 0
    for words in ("accuracy", "latency, batch 32", "faster", "less", job["verdict"]["sentence"].split()[0]):
        assert words in table.stdout

    fetched = modelpress("get", job["id"], "--to", tmp_path / "out", "--kind", "model.onnx", "--json")
    (file,) = map(Path, json.loads(fetched.stdout)["files"])
    (artifact,) = [each for each in job["artifacts"] if each["kind"] == "model.onnx"]
    assert hashlib.sha256(file.read_bytes()).hexdigest() == artifact["sha256"]
    assert job["verdict"]["result"]["bytes"] == file.stat().st_size
    session = onnxruntime.InferenceSession(file)
    assert session.run(None, {"x": np.zeros((3, 1, 28, 28), np.float32)})[0].shape == (3, 10)
    repeated = json.loads(modelpress("run", "--plan", job["verdict"]["reproduce"]["plan"], "--watch", "--json").stdout)
    (again,) = [each for each in repeated["artifacts"] if each["kind"] == "model.onnx"]
    assert again["sha256"] == artifact["sha256"]
    assert repeated["constraints"] == job["constraints"]
    assert [each for each in (tmp_path / "out").iterdir() if each.name.startswith(".")] == []


def test_a_limit_that_does_not_hold_is_exit_code_4_in_the_fastest_runtime(
    modelpress: Run, client: Client, tmp_path: Path
) -> None:
    model = json.loads(modelpress("upload", DEMO / "lenet5.pt2", "--json").stdout)["id"]
    dataset = modelpress("upload", "--dataset", DEMO / "mnist.npz", "--input", MNIST).stdout.split()[0]
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"version": 1, "steps": [{"method": "quantize.linear"}]}')
    asked = ("run", recipe, "--model", model, "--dataset", dataset, "--max-bytes", "1000", "--watch")
    # Both runtimes work in the sandbox.
    ran = modelpress(*asked, "--runtime", "auto")
    assert ran.returncode == 4, ran.stderr
    assert "problem" in ran.stdout
    shown = " ".join(ran.stdout.split())
    for words in ("ms in openvino", "ms in onnxruntime", "this CPU multiplies 8-bit integers"):
        assert words in shown


def test_a_rejected_file_is_exit_code_3_with_its_reason(modelpress: Run, tmp_path: Path) -> None:
    shutil.copy(DEMO / "lenet5.onnx", tmp_path / "cut.onnx")
    with (tmp_path / "cut.onnx").open("r+b") as file:
        file.truncate(1000)
    refused = modelpress("upload", "cut.onnx")
    assert refused.returncode == 3
    assert "corrupt_file" in refused.stderr
    assert "hint" in refused.stderr


def test_errors_are_a_sentence_a_hint_and_a_code(modelpress: Run) -> None:
    missing = modelpress("verdict", "job_00000000000000000000000000")
    assert missing.returncode == 1
    assert "not_found" in missing.stderr
    as_json = modelpress("verdict", "job_00000000000000000000000000", "--json")
    assert json.loads(as_json.stderr)["code"] == "not_found"
    assert modelpress("methods", env={"MODELPRESS_KEY": "mp_no_key"}).returncode == 1
    assert modelpress("methods", env={"MODELPRESS_URL": "http://127.0.0.1:9"}).returncode == 5
    assert modelpress("methods", env={"MODELPRESS_KEY": ""}).returncode == 2
    wrong = modelpress("upload", "--dataset", DEMO / "mnist.npz", "--input", "x layout=XYZ")
    assert wrong.returncode == 2
    assert "layout" in wrong.stderr


def test_arrays_of_unusual_names_are_asked_about(modelpress: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "odd.npz", pictures=np.zeros((4, 2), np.float32))
    refused = modelpress("upload", "--dataset", "odd.npz")
    assert refused.returncode == 3
    assert "pictures" in refused.stderr


def test_methods_tell_their_settings(modelpress: Run) -> None:
    assert "quantize.linear" in modelpress("methods").stdout
    one = modelpress("methods", "quantize.linear").stdout
    assert "calibration" in one
    assert modelpress("methods", "prune.nothing").returncode == 3


def test_a_login_is_kept_and_used(modelpress: Run, tmp_path: Path) -> None:
    assert modelpress("login").returncode == 0
    assert (tmp_path / "config" / "modelpress" / "login.json").stat().st_mode & 0o777 == 0o600
    assert modelpress("methods", env={"MODELPRESS_KEY": ""}).returncode == 0
    assert modelpress("login", "--key", "mp_wrong_key").returncode == 1


def test_keys_are_made_listed_and_revoked(modelpress: Run) -> None:
    made = json.loads(modelpress("keys", "create", "robot", "--scope", "read", "--json").stdout)
    assert modelpress("methods", env={"MODELPRESS_KEY": made["token"]}).returncode == 0
    refused = modelpress("keys", "create", "more", env={"MODELPRESS_KEY": made["token"]})
    assert "forbidden" in refused.stderr
    assert made["id"] in modelpress("keys", "--json").stdout
    assert modelpress("keys", "revoke", made["id"]).returncode == 0
    assert modelpress("methods", env={"MODELPRESS_KEY": made["token"]}).returncode == 1


def test_demo_files_are_what_their_page_says() -> None:
    with zipfile.ZipFile(DEMO / "mnist.npz") as archive:
        assert {name.removesuffix(".npy") for name in archive.namelist()} == {"x_train", "y_train", "x_test", "y_test"}
    assert sum(file.stat().st_size for file in DEMO.iterdir()) < 4_000_000
