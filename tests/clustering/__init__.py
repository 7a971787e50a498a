"""Tests of the clustering."""
