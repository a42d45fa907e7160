"""From a configuration to class scores: layers, towers, mesh, exchanges."""
