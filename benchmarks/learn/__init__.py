"""What is learnt in equal minutes: our candidates and nnU-Net on the same cases, split, cores and time."""
