"""What was: runs, their outputs, their figures."""
