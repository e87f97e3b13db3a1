"""Training, evaluation, sampling and artifacts in one process, with torch and without Ray or MLflow."""
