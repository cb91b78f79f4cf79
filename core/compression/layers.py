"""The table of layers in a verdict: what each is stored as, and in how many bytes."""

from core.compression.method import Report
from core.network.describe import describe
from core.network.encodings import Dense, Encoding
from core.network.network import Network
from core.verdict import ItemisedBytes, LayerVerdict, Sensitivity


def list_layers(original: Network, result: Network, reports: tuple[Report, ...]) -> tuple[LayerVerdict, ...]:
    """One row for each weight-bearing layer of the result, in graph order; share of time is measured later."""
    sensitivities = {name: found for report in reports for name, found in report.sensitivities.items()}
    rows = []
    for described in describe(original).layers:
        layer = result.graph.get_submodule(described.name)
        encodings: dict[str, Encoding] = {
            name: result.encodings.get(f"{described.name}.{name}") or Dense(parameter)
            for name, parameter in layer.named_parameters(recurse=False)
        }
        # Encoded or not, the weight's encoding names the layer's.
        main = encodings.get("weight") or next(iter(encodings.values()), None)
        rows.append(
            LayerVerdict(
                name=described.name,
                kind=described.kind,
                encoding="float32" if main is None else main.name,
                shape="×".join(str(size) for size in described.weight_shape),
                sensitivity=sensitivities.get(described.name, Sensitivity()),
                bytes_before=sum(parameter.numel() * 4 for parameter in layer.parameters(recurse=False)),
                bytes=sum(_total(encoding.bytes()) for encoding in encodings.values()),
            )
        )
    return tuple(rows)


def _total(items: ItemisedBytes) -> int:
    return sum(items.model_dump().values())
