"""Blobs: bytes at rest, named by their SHA-256."""
