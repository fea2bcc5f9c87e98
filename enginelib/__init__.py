"""enginelib: an embeddable, single-node, transactional storage engine."""
