"""The parts of bench/soak: what there is to ask, what is right, who asks, who is asked, and how the server fares."""
