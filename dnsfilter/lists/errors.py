"""What is wrong with a list or a line of it, in words for an admin."""


class BadList(ValueError):
    """A list that must be refused as a whole; the message says why, and the remedy where there is one."""


class BadLine(ValueError):
    """A line that states no rule; the message says why, and the remedy where there is one."""
