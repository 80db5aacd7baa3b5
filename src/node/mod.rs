//! One running server: starts and stops groups, routes requests, config, telemetry.

mod config;
mod failure;
mod service;
mod telemetry;

pub use config::{ConfigError, EngineKind, LogFormat, NodeConfig, SETTINGS, Sources};
pub use failure::Failure;
pub use service::{Readiness, Service};
pub use telemetry::{Served, Telemetry};
