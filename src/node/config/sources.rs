//! Where settings come from: flags, over `QUORATE_*` variables, over a TOML file. All three use the
//! same keys and the same texts for values, so there is one place that checks them.

use std::collections::BTreeMap;

use super::ConfigError;

/// Every key, in the order of the documentation.
pub const SETTINGS: [&str; 32] = [
    "name",
    "data_dir",
    "client_addr",
    "client_advertise",
    "etcd_addr",
    "peer_addr",
    "peer_advertise",
    "tls_cert",
    "tls_key",
    "tls_ca",
    "peer_tls_cert",
    "peer_tls_key",
    "peer_tls_ca",
    "insecure",
    "cluster",
    "join",
    "replace",
    "labels",
    "replication_factor",
    "log",
    "log_format",
    "value_bytes_max",
    "requests_in_flight_max",
    "watch_progress_ms",
    "heartbeat_ms",
    "election_min_ms",
    "election_max_ms",
    "log_segment_bytes",
    "disk_reserve_bytes",
    "engine_cache_bytes",
    "engine_write_buffer_bytes",
    "engine",
];

/// Begins the name of a variable.
const PREFIX: &str = "QUORATE_";
/// Variables with that prefix which are not settings of a node: kvctl's, and the file's own name.
const OTHERS: [&str; 14] = [
    "CONFIG",
    "ENDPOINTS",
    "KEYSPACE",
    "TIMEOUT",
    "PROFILE",
    "PROFILES",
    "OUTPUT",
    "USER",
    "READ",
    "MAX_STALE",
    "ZONE",
    "CLIENT_TLS_CA",
    "CLIENT_TLS_CERT",
    "CLIENT_TLS_KEY",
];
/// Settings that a file may also give as `true` or `false`.
const SWITCHES: [&str; 1] = ["insecure"];

/// What was given, before it is checked.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// Key and text of each flag that was given.
    pub flags: Vec<(&'static str, String)>,
    /// The environment; other variables than `QUORATE_*` are ignored.
    pub variables: Vec<(String, String)>,
    /// Path and text of the configuration file.
    pub file: Option<(String, String)>,
}

/// One given value.
#[derive(Clone, Debug)]
pub(super) struct Given {
    /// Its text.
    pub(super) text: String,
    /// How people know where it came from.
    pub(super) origin: String,
}

impl Sources {
    /// Merges the sources: at most one value a key, the strongest.
    pub(super) fn merged(&self) -> Result<BTreeMap<&'static str, Given>, ConfigError> {
        let mut merged = BTreeMap::new();
        if let Some((path, text)) = &self.file {
            read_file(path, text, &mut merged)?;
        }
        for (variable, text) in &self.variables {
            let Some(name) = variable.strip_prefix(PREFIX) else { continue };
            if text.is_empty() || OTHERS.contains(&name) || is_service_link(name) {
                continue;
            }
            let key = name.to_lowercase();
            // Names are upper case: `QUORATE_name` is not a setting.
            let key = known(&key).filter(|key| key.to_uppercase() == name).ok_or_else(|| {
                let nearest = format!("{PREFIX}{}", nearest(&key).to_uppercase());
                ConfigError::UnknownKey { key: variable.clone(), place: "the environment".to_owned(), nearest }
            })?;
            merged.insert(key, Given { text: text.clone(), origin: variable.clone() });
        }
        for (key, text) in &self.flags {
            merged.insert(key, Given { text: text.clone(), origin: format!("--{}", key.replace('_', "-")) });
        }
        Ok(merged)
    }
}

/// Kubernetes sets these for every service, and one may well be called `quorate`.
fn is_service_link(name: &str) -> bool {
    name == "PORT" || name.starts_with("PORT_") || name.contains("SERVICE_HOST") || name.contains("SERVICE_PORT")
}

fn known(key: &str) -> Option<&'static str> {
    SETTINGS.into_iter().find(|known| *known == key)
}

fn nearest(key: &str) -> &'static str {
    let distance = |known: &&str| strsim::damerau_levenshtein(known, key);
    SETTINGS.into_iter().min_by_key(distance).unwrap_or_default()
}

fn read_file(path: &str, text: &str, merged: &mut BTreeMap<&'static str, Given>) -> Result<(), ConfigError> {
    let table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| ConfigError::Syntax { path: path.to_owned(), error })?;
    for (written, value) in table {
        let key = known(&written.replace('-', "_")).ok_or_else(|| ConfigError::UnknownKey {
            nearest: nearest(&written.replace('-', "_")).to_owned(),
            key: written.clone(),
            place: path.to_owned(),
        })?;
        let origin = format!("{written} in {path}");
        let switch = value.as_bool().filter(|_| SWITCHES.contains(&key)).map(|value| value.to_string());
        let Some(text) = switch.or_else(|| text_of(&value)) else {
            let why = "must be a text, a whole number, or for lists a table or an array of texts".to_owned();
            return Err(ConfigError::Invalid { origin, text: value.type_str().to_owned(), why });
        };
        if let Some(twice) = merged.insert(key, Given { text, origin }) {
            let why = format!("is the same key as {key}; keep one");
            return Err(ConfigError::Invalid { origin: twice.origin, text: twice.text, why });
        }
    }
    Ok(())
}

fn text_of(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(toml::Value::as_str).collect();
            items.map(|items| items.join(","))
        }
        toml::Value::Table(table) => {
            let pair = |(key, value): (&String, &toml::Value)| Some(format!("{key}={}", value.as_str()?));
            let pairs: Option<Vec<_>> = table.iter().map(pair).collect();
            pairs.map(|pairs| pairs.join(","))
        }
        toml::Value::Float(_) | toml::Value::Boolean(_) | toml::Value::Datetime(_) => None,
    }
}
