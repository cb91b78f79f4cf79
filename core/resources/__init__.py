"""What the API, a webhook and the CLI show: one shape for all three."""
