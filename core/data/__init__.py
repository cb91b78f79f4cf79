"""From uploaded files to batches."""
