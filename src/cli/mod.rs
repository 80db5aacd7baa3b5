//! kvctl.
