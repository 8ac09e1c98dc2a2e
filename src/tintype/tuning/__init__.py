"""The best model for a time budget."""
