"""Files of other programs: recognised by their content, and refused with the command that converts them."""

from collections.abc import Collection

from core.errors import ModelpressError

FROM_OTHER_TORCH = (
    "With torch 2.13: `python -c \"import torch; torch.export.save(torch.export.load('FILE'), 'model.pt2')\"`, or "
    "export the model again."
)
_TO_ONNX = "In your own program call `modelpress.export(model, example, 'model.onnx')`."
_FROM_PICKLE = (
    "Where its class is at hand: `model.load_state_dict(torch.load('FILE', weights_only=True))`, then "
    "`modelpress.export(model, example, 'model.pt2')`."
)
_FROM_TORCHSCRIPT = (
    "`python -c \"import torch; torch.onnx.export(torch.jit.load('FILE').eval(), (torch.randn(1, 3, 224, 224),), "
    "'model.onnx', dynamo=False)\"` with an example of your own."
)
_FROM_KERAS = "`python -c \"import keras; keras.models.load_model('FILE').export('model.onnx', format='onnx')\"`"
_FROM_TFLITE = "`python -m tf2onnx.convert --tflite FILE --output model.onnx`"
_FROM_SAVED_MODEL = "`python -m tf2onnx.convert --saved-model FOLDER --output model.onnx`"
_FROM_FROZEN_GRAPH = "`python -m tf2onnx.convert --graphdef FILE --inputs NAME:0 --outputs NAME:0 --output model.onnx`"
_FROM_GGUF = (
    "`python -c \"from transformers import AutoModelForCausalLM as A; A.from_pretrained('.', gguf_file='FILE')"
    ".save_pretrained('model')\"`, and upload the files of the folder `model`."
)
_UNPACK = "`tar -xf FILE`, and upload the model's files alone."
_ARRAYS = "Upload arrays as a data set, as .npz, and the network as .onnx or .pt2."
# Beginning, where it stands, what begins so, and what turns it into something that is read here.
_MAGICS: tuple[tuple[bytes, int, str, str], ...] = (
    (b"\x80\x02", 0, "a pickle (a checkpoint of PyTorch or another program)", _FROM_PICKLE),
    (b"\x80\x03", 0, "a pickle", _FROM_PICKLE),
    (b"\x80\x04", 0, "a pickle", _FROM_PICKLE),
    (b"\x80\x05", 0, "a pickle", _FROM_PICKLE),
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file (Keras weights or model)", _FROM_KERAS),
    (b"TFL3", 4, "a TensorFlow Lite model", _FROM_TFLITE),
    (b"ORTM", 4, "a model in onnxruntime's own format (.ort)", "Upload the .onnx file that it was made from."),
    (b"GGUF", 0, "a GGUF file", _FROM_GGUF),
    (b"\x93NUMPY", 0, "a NumPy array", _ARRAYS),
    (b"\x1f\x8b", 0, "a gzip archive", _UNPACK),
    (b"BZh", 0, "a bzip2 archive", _UNPACK),
    (b"\xfd7zXZ\0", 0, "an xz archive", _UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", "`7z x FILE`, and upload the model's files alone."),
    (b"Rar!\x1a\x07", 0, "a rar archive", "`unrar x FILE`, and upload the model's files alone."),
    (b"ustar", 257, "a tar archive", _UNPACK),
)
# A file whose presence in a zip says what it is; the first that is there decides.
_ENTRIES: tuple[tuple[str, str, str], ...] = (
    ("constants.pkl", "a TorchScript archive", _FROM_TORCHSCRIPT),
    ("data.pkl", "a PyTorch checkpoint (.pt or .pth), which can run code when it is opened", _FROM_PICKLE),
    ("model.weights.h5", "a Keras model", _FROM_KERAS),
    ("saved_model.pb", "a TensorFlow SavedModel", _FROM_SAVED_MODEL),
    ("pytorch_model.bin", "a Hugging Face model with pickled weights alone", _FROM_PICKLE),
)
# Of the first bytes of a SavedModel: its version, then graphs, which are longer than any name of a producer.
_SAVED_MODEL = b"\x08\x01\x12"
_LONGEST_NAME = 512


def refuse_foreign(head: bytes, size: int) -> None:
    """Raise `unknown_format` where a file of `size` bytes that begins with `head` is of another program."""
    for magic, offset, kind, hint in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            raise unknown(kind, hint)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        raise unknown(
            "a safetensors file, which holds weights without a network",
            "Upload the model's config.json with it, or export the network: " + _TO_ONNX,
        )
    if head[:3] == _SAVED_MODEL and _varint(head[3:]) > _LONGEST_NAME:
        raise unknown("a TensorFlow SavedModel", _FROM_SAVED_MODEL)
    if head[:1] == b"\n" and (b"\x12\x0bPlaceholder" in head or b"\x12\x05Const" in head):
        raise unknown("a frozen graph of TensorFlow", _FROM_FROZEN_GRAPH)


def foreign_zip(leaves: Collection[str]) -> ModelpressError:
    """The error for a zip archive with these entries, named without their folders."""
    for entry, kind, hint in _ENTRIES:
        if entry in leaves:
            return unknown(kind, hint)
    if any(name.endswith(".npy") for name in leaves):
        return unknown("a file of NumPy arrays (.npz)", _ARRAYS)
    return unknown("a zip archive without a model that is known here", "Upload the model file alone, not zipped.")


def nothing_known() -> ModelpressError:
    """The error for what begins like nothing that is known."""
    return unknown("no model that is known here", _TO_ONNX)


def unknown(kind: str, hint: str) -> ModelpressError:
    """The error for a kind of file that is not read."""
    return ModelpressError("unknown_format", f"The file is {kind}.", hint=hint)


def _varint(data: bytes) -> int:
    value = 0
    for index, byte in enumerate(data[:10]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            break
    return value
