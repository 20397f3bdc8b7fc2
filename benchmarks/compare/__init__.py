"""Every stage of ours beside the peer's: seconds by turns, peak memory in fresh processes, agreement of the answers."""
