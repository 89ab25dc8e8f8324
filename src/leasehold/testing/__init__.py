"""For tests of leasehold's users."""
