"""The use cases: plain functions, session first; the only place with queries."""
