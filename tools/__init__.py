"""What makes the files that lrp_lens ships; none of it is in the wheel."""
