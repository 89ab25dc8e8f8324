"""The leak auditor: compares the system with the lease tables, and reports what leaked and what it could not see."""
