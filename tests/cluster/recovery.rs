//! Nodes that were away, that lost their disk, or that come back with an older one.
