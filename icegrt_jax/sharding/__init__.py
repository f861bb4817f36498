"""Where arrays live: the mesh, the sharding table, and a step compiled by jit or by pmap."""
