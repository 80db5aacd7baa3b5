//! One running server: starts and stops groups, routes requests, config, telemetry.

mod failure;

pub use failure::Failure;
