"""Celery in, database and files out; supervises, never computes."""
