"""The language of recipes, as frozen pydantic classes without torch."""
