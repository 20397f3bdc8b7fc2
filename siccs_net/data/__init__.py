"""What training reads: the folds, the patches to draw and the loader that delivers them."""
