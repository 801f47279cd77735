"""Resolvers that are asked: one exchange each, own id and port."""
