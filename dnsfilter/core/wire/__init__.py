"""Messages as octets: reading queries and responses, building answers, framing. Knows no policy."""
