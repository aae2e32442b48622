"""The statistics of every analysis: numpy and scipy only.  Agreement, intervals over cases, concentration."""
