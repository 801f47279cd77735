"""Lists: where their octets come from, and what rules they state. Knows no clients, no DNS messages."""
