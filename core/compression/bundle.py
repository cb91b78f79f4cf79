"""The bundle of a result: the network with the tokenizer and preprocessor that came with the upload, ready to run."""

import shutil
from pathlib import Path

from core.description import ModelDescription
from core.messages import ArtifactFile, ArtifactMessage
from core.network.hf_files import CONFIG
from core.network.upload import Files

KIND = "bundle.zip"
_FOLDER = "bundle"


def write_bundle(out: Path, model: str, companions: Files, description: ModelDescription) -> ArtifactMessage | None:
    """Write what stands beside the file `model` of `out`, and announce it all; None where nothing came along."""
    if not companions:
        return None
    folder = out / _FOLDER
    folder.mkdir()
    for name, path in companions.items():
        shutil.copyfile(path, folder / name)
    (folder / "README.md").write_text(_readme(model, companions, description), encoding="utf-8")
    names = sorted({*companions, "README.md"})
    files = [ArtifactFile(path=f"{_FOLDER}/{name}", filename=name) for name in names]
    return ArtifactMessage(artifact_kind=KIND, files=(ArtifactFile(path=model, filename=model), *files))


def _readme(model: str, companions: Files, description: ModelDescription) -> str:
    outputs = ", ".join(f"`{tensor.name}` {list(tensor.shape)}" for tensor in description.outputs)
    lines = [
        "# How to run it",
        "",
        f"`{model}` is the network, the other files say how its inputs are made. It gives {outputs}.",
        "",
    ]
    code = _code(companions, description)
    if not code:
        return "\n".join([*lines, "The job's own README.md shows how to run the network alone.", ""])
    return "\n".join([*lines, "In this folder:", "", "```python", *code, "```", ""])


def _code(companions: Files, description: ModelDescription) -> list[str]:
    """Lines of Python that run a sample; none where nothing says how inputs are made."""
    task = description.metadata.get("task", "")
    if {"tokenizer.json", "tokenizer_config.json"} & companions.keys():
        prepare = _tokenise(task, [tensor.name for tensor in description.inputs])
    elif "preprocessor_config.json" in companions:
        prepare = _LISTEN if task.startswith("audio") else _LOOK
    else:
        return []
    answer = ["print(output.shape)"]
    if "id2label" in description.metadata and CONFIG in companions:
        best = "output[0].argmax(-1)" if task == "token-classification" else "output.argmax(-1)"
        answer = [
            'names = json.loads(open("config.json", encoding="utf-8").read())["id2label"]',
            f"print([names[str(best)] for best in {best}])",
        ]
    return ["import json", "", "import numpy as np", "import onnxruntime", *prepare, *_RUN, *answer]


_RUN = [
    'session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])',
    "feed = {each.name: prepared[each.name] for each in session.get_inputs()}",
    "output = session.run(None, feed)[0]",
]
_LOOK = [
    "from PIL import Image",
    "from transformers import AutoImageProcessor",
    "",
    'image = Image.new("RGB", (320, 240))  # or Image.open("photo.jpg").convert("RGB")',
    'prepared = AutoImageProcessor.from_pretrained(".")(images=[image], return_tensors="np")',
]
_LISTEN = [
    "from transformers import AutoFeatureExtractor",
    "",
    'extractor = AutoFeatureExtractor.from_pretrained(".")',
    "sound = np.zeros(extractor.sampling_rate, np.float32)  # one second of samples",
    'prepared = extractor([sound], sampling_rate=extractor.sampling_rate, return_tensors="np")',
]


def _tokenise(task: str, names: list[str]) -> list[str]:
    # Tokenizers of language models often know no token to pad with.
    several = task != "text-generation"
    texts = '["One text.", "Another one, which is longer."]' if several else '["One text"]'
    options = ["truncation=True", "max_length=128", 'return_tensors="np"']
    options = [*(["padding=True"] if several else []), *options]
    options += ["return_token_type_ids=True"] if "token_type_ids" in names else []
    return [
        "from transformers import AutoTokenizer",
        "",
        f"texts = {texts}",
        f'prepared = AutoTokenizer.from_pretrained(".")(texts, {", ".join(options)})',
    ]
