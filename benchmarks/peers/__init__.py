"""The other libraries, one function per contender; each runs in an environment of its own."""
