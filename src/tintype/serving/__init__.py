"""Using a trained model: its files, and labels for images."""
