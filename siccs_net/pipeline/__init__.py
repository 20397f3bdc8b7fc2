"""START HERE: one file a verb, composed from the rooms below. Plan, preprocess, train, predict, evaluate."""
