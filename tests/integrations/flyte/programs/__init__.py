"""Programs with Flyte tasks; tests run them in processes of their own."""
