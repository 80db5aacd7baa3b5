//! One running server: starts and stops groups, routes requests, config, telemetry.

mod failure;
mod route;
mod scan;

pub use failure::Failure;
