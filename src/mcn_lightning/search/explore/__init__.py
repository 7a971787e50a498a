"""What an index holds at large: groups and their names, clusters, a map, and pictures of the clips."""
