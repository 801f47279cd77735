"""The commands: a file each. Parse, call, print."""
