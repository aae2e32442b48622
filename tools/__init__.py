"""What makes the files that the repository keeps and the wheel has not: the demo model, stored tutorials, a figure."""
