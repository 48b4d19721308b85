"""Use of modules without an experiment: predictions, scores, and files for other libraries."""
