"""The pages, from the same services as the API."""
