"""The test runner's word about browsers, which decides whether a green run means anything."""

from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A suite of one test that needs no browser and one that does, on a machine that can get none."""
    monkeypatch.syspath_prepend(str(TOOLS))
    monkeypatch.setattr("run_tests.get_browser", lambda: None)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = browser\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_one(): pass\n@pytest.mark.browser\ndef test_two(): assert False\n"
    )
    return str(tmp_path)


def test_without_a_browser_it_says_so_and_ci_fails(
    suite: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from run_tests import main  # type: ignore[import-not-found]

    monkeypatch.delenv("CI", raising=False)
    assert main([suite]) == 0
    said = capfd.readouterr().out
    assert "1 passed, 1 deselected" in said
    assert "The browser tests did NOT run" in said.splitlines()[-2]
    monkeypatch.setenv("CI", "true")
    assert main([suite]) == 1


def test_servers_that_do_not_answer_are_named(
    suite: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from run_tests import main

    monkeypatch.setenv("MODELPRESS_TEST_DATABASE_URL", "postgresql://nobody@127.0.0.1:9/none")
    assert main(["--servers", suite]) == 0
    assert "did not run: PostgreSQL" in capfd.readouterr().out
