"""The only program that loads torch; reads files and a request, writes files and JSON lines."""
