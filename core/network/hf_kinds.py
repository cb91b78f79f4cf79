"""What is read of the library `transformers`: kinds of models, tasks, and the inputs that a network of each takes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from core.errors import ModelpressError

Task = Literal[
    "image-classification",
    "text-classification",
    "token-classification",
    "audio-classification",
    "text-generation",
    "feature-extraction",
]

# Kinds (`model_type`) that were tried: built, traced with a free batch, and compared.
_MODEL_TYPES = """
albert bert camembert convbert deberta deberta-v2 distilbert electra ernie mobilebert modernbert mpnet nystromformer
rembert roberta roformer squeezebert xlm-roberta
bloom codegen falcon gemma gemma2 gemma3_text gpt2 gpt_bigcode gpt_neo gpt_neox gptj granite llama mistral mpt olmo
olmo2 opt phi phi3 qwen2 qwen3 smollm3 stablelm starcoder2
beit bit convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers efficientnet focalnet hiera ijepa
levit mobilenet_v1 mobilenet_v2 mobilevitv2 poolformer pvt pvt_v2 regnet resnet segformer swiftformer swin
swinv2 vit vit_msn
audio-spectrogram-transformer data2vec-audio hubert sew sew-d unispeech unispeech-sat wav2vec2 wav2vec2-conformer
wavlm whisper
"""
MODEL_TYPES = frozenset(_MODEL_TYPES.split())
# Auto-mapping of transformers that lists the classes of each task, in the order in which they are looked through.
TASKS: Mapping[Task, str] = {
    "image-classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "text-classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token-classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "audio-classification": "MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES",
    "text-generation": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "feature-extraction": "MODEL_MAPPING_NAMES",
}


@dataclass(frozen=True)
class Kind:
    """A class of transformers that is read, and the name of the result that is its output."""

    model_type: str
    architecture: str
    task: Task

    @property
    def output(self) -> str:
        """The attribute of the model's result that becomes the network's output."""
        return "last_hidden_state" if self.task == "feature-extraction" else "logits"


def kind_of(config: Mapping[str, object], listed: Mapping[Task, Mapping[str, object]]) -> Kind:
    """The kind that a config states, among those `listed` by transformers; raises `unsupported_graph`."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in MODEL_TYPES:
        raise ModelpressError(
            "unsupported_graph",
            f"Models of type {str(model_type)[:100]} are not built here.",
            hint="Export it at home: `modelpress export`, or torch.onnx.export.",
        )
    stated = config.get("architectures")
    names = [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []
    for task, classes in listed.items():
        known = classes.get(model_type, ())
        for name in (known,) if isinstance(known, str) else tuple(known) if isinstance(known, (tuple, list)) else ():
            if name in names:
                return Kind(model_type, str(name), task)
    raise ModelpressError(
        "unsupported_graph",
        f"The architecture {', '.join(names)[:200] or 'that config.json does not state'} is not read.",
        hint="Read are " + ", ".join(TASKS) + ". Save the model as one of these classes.",
    )
