"""Fuzzing: any octets give a value or the documented error, in bounded time. README.md says how to run it."""
