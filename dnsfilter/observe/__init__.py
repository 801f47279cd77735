"""What monitoring sees: fed with values, never asked anything."""
