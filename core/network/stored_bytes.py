"""What the numbers of a network take in its file."""

from core.network.network import Network


def stored_bytes(network: Network) -> int:
    """Bytes of all parameters as they are stored, tied ones once; the graph comes on top."""
    total, seen = 0, set()
    for name, parameter in network.graph.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            continue
        seen.add(id(parameter))
        encoding = network.encodings.get(name)
        total += parameter.nbytes if encoding is None else sum(encoding.bytes().model_dump().values())
    return total
