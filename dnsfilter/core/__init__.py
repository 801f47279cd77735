"""The core: octets, names, rules and times in; values and octets out.

Nothing here opens a socket or a file, reads a clock, starts a thread, logs or
counts; `now` and `wall` are arguments.
"""
