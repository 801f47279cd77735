"""The configuration: YAML in, a typed frozen `Config` out, or all that is wrong with it at once."""
