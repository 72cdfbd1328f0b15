"""What reading and writing an MLflow store share: whether it is there, its tables, its errors."""
