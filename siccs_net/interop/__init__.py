"""Other people's files: SICCS, Decathlon and folders of pairs become datasets in nnU-Net's layout."""
