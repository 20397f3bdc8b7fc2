"""Every stage of ours beside the peer's, alternately in one run: seconds, peak memory, ratio, agreement."""
