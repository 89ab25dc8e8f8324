"""Users and CI prove the promises: `stress` under faults, `selftest` of the auditor, `bench` beside other libraries."""
