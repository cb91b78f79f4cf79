"""The tables, their types and the session."""
