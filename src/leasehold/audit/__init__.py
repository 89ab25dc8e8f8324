"""The leak auditor: evidence in, findings out."""
