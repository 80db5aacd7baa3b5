//! What a command works with: each setting may come from an option, a variable, a profile or the
//! start of the REPL, and the first of them that names it holds.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use serde::{Deserialize, Deserializer};

use super::args::{Format, ReadFrom, duration};
use super::exit::Failure;
use crate::client::{ClientFiles, Consistency, TlsIdentity};

/// Endpoint when nothing names one.
const ENDPOINT_DEFAULT: &str = "127.0.0.1:2379";
/// Keyspace when nothing names one.
const KEYSPACE_DEFAULT: &str = "default";

/// Settings, each of which may be left open. The same fields are options of the command line and keys
/// of a profile: a new one is a field here and a line in [`Settings::or`].
#[derive(Args, Deserialize, Clone, PartialEq, Eq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Nodes to talk to, as host:port, separated by commas [default: 127.0.0.1:2379]
    #[arg(long, env = "QUORATE_ENDPOINTS", value_delimiter = ',', global = true)]
    pub endpoints: Option<Vec<String>>,
    /// Speaks TLS to nodes whose certificates a CA in this PEM file has signed
    #[arg(long, env = "QUORATE_CLIENT_TLS_CA", value_name = "FILE", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// Certificate to present to nodes that ask for one, in PEM form
    #[arg(long, env = "QUORATE_CLIENT_TLS_CERT", value_name = "FILE", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// Private key of that certificate, in PEM form
    #[arg(long, env = "QUORATE_CLIENT_TLS_KEY", value_name = "FILE", global = true)]
    pub tls_key: Option<PathBuf>,
    /// Keyspace to work on [default: default]
    #[arg(long, env = "QUORATE_KEYSPACE", global = true)]
    pub keyspace: Option<String>,
    /// Time a request may take, retries included: 500ms, 5s, 2m [default: 5s; import and export 60s]
    #[arg(long, env = "QUORATE_TIMEOUT", value_parser = duration, global = true)]
    #[serde(default, deserialize_with = "duration_of_text")]
    pub timeout: Option<Duration>,
    /// Who serves get, scan, count and export, and how new that is [default: linearizable]
    #[arg(long, env = "QUORATE_READ", value_enum, global = true)]
    pub read: Option<ReadFrom>,
    /// Bound of stale reads: 500ms, 5s, 2m. Alone it means --read stale
    #[arg(long, env = "QUORATE_MAX_STALE", value_parser = duration, value_name = "T", global = true)]
    #[serde(default, deserialize_with = "duration_of_text")]
    pub max_stale: Option<Duration>,
    /// Zone of this machine, as nodes are labelled: follower and stale reads go there first
    #[arg(long, env = "QUORATE_ZONE", global = true)]
    pub zone: Option<String>,
    /// How to print results [default: simple]
    #[arg(short = 'w', long = "write-out", env = "QUORATE_OUTPUT", value_enum, global = true)]
    pub output: Option<Format>,
}

impl Settings {
    /// What is left open here is taken from `weaker`.
    #[must_use]
    pub(crate) fn or(self, weaker: Self) -> Self {
        // A bound alone names the level as well, before anything weaker does; and a level that needs no
        // bound leaves a weaker one no use.
        let read = self.read.or(self.max_stale.map(|_| ReadFrom::Stale));
        let bound = match read {
            Some(ReadFrom::Linearizable | ReadFrom::Follower) => None,
            Some(ReadFrom::Stale) | None => weaker.max_stale,
        };
        Self {
            endpoints: self.endpoints.or(weaker.endpoints),
            tls_ca: self.tls_ca.or(weaker.tls_ca),
            tls_cert: self.tls_cert.or(weaker.tls_cert),
            tls_key: self.tls_key.or(weaker.tls_key),
            keyspace: self.keyspace.or(weaker.keyspace),
            timeout: self.timeout.or(weaker.timeout),
            read: read.or(weaker.read),
            max_stale: self.max_stale.or(bound),
            zone: self.zone.or(weaker.zone),
            output: self.output.or(weaker.output),
        }
    }

    /// The endpoints that hold; blanks between commas name none.
    pub(crate) fn endpoints(&self) -> Vec<&str> {
        match &self.endpoints {
            Some(endpoints) => endpoints.iter().map(|one| one.trim()).filter(|one| !one.is_empty()).collect(),
            None => vec![ENDPOINT_DEFAULT],
        }
    }

    /// Which files the settings name. An empty name counts as none.
    pub(crate) fn tls(&self) -> Result<Option<ClientFiles>, Failure> {
        let given = |path: &Option<PathBuf>| path.clone().filter(|path| !path.as_os_str().is_empty());
        let identity = match (given(&self.tls_cert), given(&self.tls_key)) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some(TlsIdentity { cert, key }),
            (Some(_), None) | (None, Some(_)) => {
                return Err(Failure::usage("--tls-cert and --tls-key belong together", "give both, or neither"));
            }
        };
        match (given(&self.tls_ca), identity) {
            (Some(ca), identity) => Ok(Some(ClientFiles { ca, identity })),
            (None, None) => Ok(None),
            (None, Some(_)) => {
                let hint = "name the CA that signed the nodes' certificates with --tls-ca";
                Err(Failure::usage("--tls-cert is given, but not who signs the nodes' certificates", hint))
            }
        }
    }

    /// How new reads must be.
    pub(crate) fn consistency(&self) -> Result<Consistency, Failure> {
        match (self.read, self.max_stale) {
            (Some(ReadFrom::Linearizable) | None, None) => Ok(Consistency::Linearizable),
            (Some(ReadFrom::Follower), None) => Ok(Consistency::Follower),
            (Some(ReadFrom::Linearizable | ReadFrom::Follower), Some(_)) => {
                let message = "--max-stale bounds stale reads, and --read asks for others";
                let hint = "leave one of them out; QUORATE_READ and QUORATE_MAX_STALE count as well";
                Err(Failure::usage(message, hint))
            }
            (Some(ReadFrom::Stale) | None, Some(max)) => Ok(Consistency::Stale(max)),
            (Some(ReadFrom::Stale), None) => {
                Err(Failure::usage("stale reads need a bound", "add --max-stale, for instance --max-stale 5s"))
            }
        }
    }

    /// The keyspace that holds.
    pub(crate) fn keyspace(&self) -> &str {
        self.keyspace.as_deref().unwrap_or(KEYSPACE_DEFAULT)
    }

    /// The format that holds.
    pub(crate) fn output(&self) -> Format {
        self.output.unwrap_or_default()
    }
}

fn duration_of_text<'de, D: Deserializer<'de>>(text: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(text)?;
    duration(&text).map(Some).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Consistency, Format, ReadFrom, Settings};

    #[test]
    fn the_first_that_names_a_setting_holds() {
        let flags = Settings { keyspace: Some("flag".into()), ..Settings::default() };
        let profile = Settings {
            endpoints: Some(vec!["a:1".into(), " ".into()]),
            keyspace: Some("profile".into()),
            timeout: Some(Duration::from_secs(9)),
            output: Some(Format::Table),
            ..Settings::default()
        };
        let held = flags.clone().or(profile.clone());
        assert_eq!((held.keyspace(), held.endpoints(), held.output()), ("flag", vec!["a:1"], Format::Table));
        assert_eq!(held.timeout, Some(Duration::from_secs(9)));
        assert_eq!(profile.clone().or(flags), profile);
        let nothing = Settings::default();
        assert_eq!((nothing.keyspace(), nothing.output()), ("default", Format::Simple));
        assert_eq!(nothing.endpoints(), ["127.0.0.1:2379"]);
    }

    #[test]
    fn a_bound_of_stale_reads_wins_over_a_weaker_level() {
        let flags = Settings { max_stale: Some(Duration::from_secs(5)), ..Settings::default() };
        let profile = Settings { read: Some(ReadFrom::Follower), ..Settings::default() };
        let stale = Consistency::Stale(Duration::from_secs(5));
        assert_eq!(flags.clone().or(profile.clone()).consistency().unwrap(), stale);
        assert_eq!(profile.clone().or(flags.clone()).consistency().unwrap(), Consistency::Follower);
        for read in [ReadFrom::Follower, ReadFrom::Linearizable] {
            let both = Settings { read: Some(read), ..flags.clone() };
            assert!(both.clone().or(Settings::default()).consistency().is_err(), "in one breath");
            assert!(Settings::default().or(both).consistency().is_err(), "in one profile");
        }
    }
}
