//! Three kvd processes.

use std::path::Path;
use std::process::Command;

use quorate::client::{Client, ClientConfig};
use quorate::env::Env;

use super::processes::{self, Place, Processes};

/// Where the processes live.
pub(crate) fn places(root: &Path) -> Vec<Place> {
    processes::places(root, "quorate")
}

/// Starts a cluster and waits until it is ready.
pub(crate) async fn start(kvd: &Path, places: &[Place]) -> Processes {
    let processes = start_only(kvd, places);
    let client = connect(&processes).await;
    processes.wait(async |endpoint| client.status(endpoint).await.is_ok_and(|status| status.ready)).await;
    processes
}

/// Starts the processes.
pub(crate) fn start_only(kvd: &Path, places: &[Place]) -> Processes {
    let cluster: Vec<_> = places.iter().map(|place| format!("{}={}", place.name, place.peer)).collect();
    let cluster = cluster.join(",");
    Processes::start(places, |place| {
        let mut command = Command::new(kvd);
        command.args(["--name", &place.name, "--client-addr", &place.client, "--peer-addr", &place.peer]);
        command.args(["--cluster", &cluster, "--data-dir"]).arg(&place.dir);
        command
    })
}

/// A client of its own, with a connection of its own to the leader.
pub(crate) async fn connect(processes: &Processes) -> Client {
    Client::connect(&Env::real(), ClientConfig::new(processes.clients())).await.expect("a client")
}
