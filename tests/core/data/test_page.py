"""The examples of docs/data.md do what the page says."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest

from core.data.inspection import describe_dataset
from core.description import DataFormat, DatasetSpec, Task
from core.errors import ModelpressError

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLE = re.compile(r"```python\n(.*?)```\n\n```json\n(.*?)```(?:\n\n```text\n(.*?)```)?", re.DOTALL)
EXAMPLES = EXAMPLE.findall(PAGE)


def read(code: str, spec: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Run an example; the format of what it wrote. Raises what the inspection raises."""
    monkeypatch.chdir(folder)
    exec(compile(code, "docs/data.md", "exec"), {})
    files = sorted(folder.iterdir())
    return describe_dataset(files, DatasetSpec.model_validate(json.loads(spec))).format


@pytest.mark.parametrize(("code", "spec", "refusal"), EXAMPLES, ids=map(str, range(len(EXAMPLES))))
def test_an_example_is_read_or_refused_as_the_page_says(code, spec, refusal, tmp_path, monkeypatch):
    if refusal:
        with pytest.raises(ModelpressError) as caught:
            read(code, spec, tmp_path, monkeypatch)
        assert (caught.value.code, caught.value.detail) == ("invalid_data", refusal.strip())
    else:
        read(code, spec, tmp_path, monkeypatch)


def test_the_page_has_every_format_and_task(tmp_path, monkeypatch):
    assert len(EXAMPLES) == PAGE.count("```python")
    found = set()
    for number, (code, spec, refusal) in enumerate(EXAMPLES):
        folder = tmp_path / str(number)
        folder.mkdir()
        if not refusal:
            found.add(read(code, spec, folder, monkeypatch))
    assert found == set(get_args(DataFormat))
    assert all(f"| `{task}` |" in PAGE for task in get_args(Task))
