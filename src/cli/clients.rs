//! The clients that are kept between commands, so that connections, the shard map and what was
//! learned of leaders outlive a line of the REPL.

use parking_lot::Mutex;

use crate::client::{Client, ClientConfig, ClientFiles, Result};
use crate::env::Env;

/// Clients kept at most: lines may name other clusters, but rarely many.
const CLIENTS_MAX: usize = 4;

/// Whom a client talks to, how, and from which zone.
type Key = (Vec<String>, Option<ClientFiles>, Option<String>);

/// Clients by the endpoints they were given.
pub(crate) struct Clients {
    kept: Mutex<Vec<(Key, Client)>>,
    // A client that lives for one command need not follow the map.
    follow: bool,
}

impl Clients {
    /// For one command.
    pub(crate) fn for_one() -> Self {
        Self { kept: Mutex::default(), follow: false }
    }

    /// For many commands.
    pub(crate) fn for_many() -> Self {
        Self { kept: Mutex::default(), follow: true }
    }

    /// A client with these settings.
    pub(crate) async fn get(&self, env: &Env, config: ClientConfig) -> Result<Client> {
        let config = config.normalized()?;
        let key = (config.endpoints.clone(), config.tls.clone(), config.zone.clone());
        if let Some(client) = self.find(&key) {
            let client = client.with_keyspace(&config.keyspace).with_timeout(config.timeout);
            return Ok(client.with_consistency(config.consistency));
        }
        let follow = self.follow || config.watch_map;
        let client = Client::connect(env, config.watch_map(follow)).await?;
        let mut kept = self.kept.lock();
        if kept.len() >= CLIENTS_MAX {
            kept.remove(0);
        }
        kept.push((key, client.clone()));
        Ok(client)
    }

    fn find(&self, key: &Key) -> Option<Client> {
        let kept = self.kept.lock();
        kept.iter().find(|(of, _)| of == key).map(|(_, client)| client.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{CLIENTS_MAX, Clients};
    use crate::client::ClientConfig;
    use crate::client::fake::Fake;

    #[tokio::test(start_paused = true)]
    async fn a_client_is_made_once_for_its_endpoints_and_checked_each_time() {
        let fake = Fake::start(1);
        let clients = Clients::for_many();
        let config = |endpoint: &str| ClientConfig::new([endpoint]).keyspace("default");
        clients.get(&fake.env(), config("n1:1")).await.unwrap().put("a", "1").await.unwrap();
        let again = clients.get(&fake.env(), config("http://n1:1").timeout(Duration::from_secs(1))).await.unwrap();
        assert_eq!(again.get("a").await.unwrap().unwrap().value, "1");
        assert_eq!(clients.kept.lock().len(), 1);
        assert!(clients.get(&fake.env(), config("n1:1").timeout(Duration::ZERO)).await.is_err());
        for port in 2..20 {
            clients.get(&fake.env(), config(&format!("n1:{port}"))).await.unwrap();
        }
        assert_eq!(clients.kept.lock().len(), CLIENTS_MAX);
    }
}
