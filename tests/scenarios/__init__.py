"""The whole service as a process on loopback, between scripted clients and a scripted upstream."""
