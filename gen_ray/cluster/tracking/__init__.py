"""Records of runs in MLflow, written by one actor."""
