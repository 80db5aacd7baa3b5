//! Three kvd processes.

use std::path::Path;
use std::process::Command;

use quorate::client::{Client, ClientConfig};
use quorate::env::Env;

use super::processes::{Processes, places};

pub(crate) async fn start(kvd: &Path, root: &Path) -> Processes {
    let places = places(root, "quorate");
    let cluster: Vec<_> = places.iter().map(|place| format!("{}={}", place.name, place.peer)).collect();
    let cluster = cluster.join(",");
    let processes = Processes::start(&places, |place| {
        let mut command = Command::new(kvd);
        command.args(["--name", &place.name, "--client-addr", &place.client, "--peer-addr", &place.peer]);
        command.args(["--cluster", &cluster, "--data-dir"]).arg(&place.dir);
        command
    });
    let client = connect(&processes).await;
    processes.wait(async |endpoint| client.status(endpoint).await.is_ok_and(|status| status.ready)).await;
    processes
}

/// A client of its own, with a connection of its own to the leader.
pub(crate) async fn connect(processes: &Processes) -> Client {
    Client::connect(&Env::real(), ClientConfig::new(processes.clients())).await.expect("a client")
}
