"""What keeps the repository's own pictures current: the tutorials' outputs and README's figure."""
