"""What is written to disk: one frozen, validated schema per file."""
