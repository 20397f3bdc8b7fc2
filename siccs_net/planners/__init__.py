"""What a dataset looks like, and the rules that turn it into a plan."""
