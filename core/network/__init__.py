"""The canonical network: gate, readers, lift, encodings, export."""
