//! One running server: founding, groups, routing, configuration, telemetry.
//!
//! | file | what |
//! |---|---|
//! | [`server`](Node) | what is opened at start, in which order, and how it ends |
//! | `origin`, `founding` | who a node is at its start; the first start of a static cluster |
//! | `groups` | follows the map: which groups run here |
//! | `members`, `keyspaces`, `operations` | what the leader of the metadata group does: members, dropped keyspaces, replicas that move |
//! | `replicas`, `leaders` | what the leader of a shard does: changes its members, hands over |
//! | `housekeeping`, `leases` | what the leader of a shard does when time passes; the time of leases |
//! | `compaction` | what it does with old history |
//! | `router`, `route` | takes a request to the leader of its shard |
//! | `execute` | executes it there |
//! | `near` | reads on a replica that need not lead |
//! | `recent` | the newest changes, read once for all watches |
//! | `kv`, `scan` | client requests as requests to shards, and pages |
//! | `serve`, [`Service`] | the node as its clients use it |
//! | `space` | refuses growing writes before the disk is full |
//! | `config`, `telemetry` | settings and metrics |
//! | [`dev`] | several nodes on one machine, as child processes |

mod change;
mod compaction;
mod config;
pub mod dev;
mod execute;
mod failure;
mod founding;
mod groups;
mod housekeeping;
mod keyspaces;
mod kv;
mod leaders;
mod leases;
mod members;
mod near;
mod operations;
mod origin;
mod recent;
mod replicas;
mod route;
mod router;
mod scan;
mod serve;
mod server;
mod service;
mod space;
mod tasks;
mod telemetry;

pub use config::{ConfigError, EngineKind, LogFormat, NodeConfig, SETTINGS, Sources};
pub use failure::Failure;
pub use server::{Node, StartError};
pub use service::{OnlyShard, Readiness, Service};
pub use telemetry::{Served, Telemetry};
