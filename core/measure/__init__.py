"""Quality, latency, memory and size of files in their runtime, and the verdict."""
