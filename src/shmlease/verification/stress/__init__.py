"""Stress and chaos, with a verdict."""
