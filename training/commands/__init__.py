"""The commands of the training stage, one file each."""
