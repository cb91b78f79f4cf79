"""The page about surgery: its examples, run as they stand there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[4]


def test_the_examples_hold(monkeypatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/surgery.md").read_text(), re.DOTALL)
    monkeypatch.chdir(ROOT)
    assert len(blocks) == 3
    exec("\n".join(blocks), {})
