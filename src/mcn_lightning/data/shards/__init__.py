"""The streaming format: shards of many videos, written once and read without copies."""
