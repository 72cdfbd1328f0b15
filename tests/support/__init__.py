"""What several tests share: isolated environments, processes that end, MLflow as it is."""
