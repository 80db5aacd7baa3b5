//! One running server: starts and stops groups, routes requests, config, telemetry.

mod config;
pub mod dev;
mod failure;
mod service;
mod telemetry;

pub use config::{ConfigError, EngineKind, LogFormat, NodeConfig, SETTINGS, Sources};
pub use failure::Failure;
pub use service::{Readiness, Service};
pub use telemetry::{Served, Telemetry};
