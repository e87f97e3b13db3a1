"""One process, torch only: the training loop, evaluation, sampling and the artifact. No Ray, no MLflow."""
