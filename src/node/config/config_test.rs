//! Precedence, defaults and errors of a node's settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::{EngineKind, LogFormat, NodeConfig, SETTINGS, Sources};

fn flags(given: &[(&'static str, &str)]) -> Sources {
    Sources { flags: given.iter().map(|(key, text)| (*key, (*text).to_owned())).collect(), ..Default::default() }
}

fn variables(given: &[(&str, &str)]) -> Sources {
    let variables = given.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    Sources { variables, ..Default::default() }
}

fn file(text: &str) -> Sources {
    Sources { file: Some(("kvd.toml".to_owned(), text.to_owned())), ..Default::default() }
}

fn resolved(sources: &Sources) -> NodeConfig {
    NodeConfig::resolve(sources).expect("valid settings")
}

fn error(sources: &Sources) -> String {
    NodeConfig::resolve(sources).expect_err("settings that cannot be used").to_string()
}

fn founding(given: &[(&str, &str)]) -> BTreeMap<String, String> {
    given.iter().map(|(name, address)| ((*name).to_owned(), (*address).to_owned())).collect()
}

#[test]
fn a_node_alone_needs_no_setting() {
    let config = resolved(&Sources::default());
    assert_eq!(config.name, "n1");
    assert_eq!(config.data_dir, PathBuf::from("./quorate-data"));
    assert_eq!((&*config.client_listen, &*config.client_advertise), ("127.0.0.1:2379", "127.0.0.1:2379"));
    assert_eq!((&*config.peer_listen, &*config.peer_advertise), ("127.0.0.1:2380", "127.0.0.1:2380"));
    assert_eq!(config.founding, founding(&[("n1", "127.0.0.1:2380")]));
    assert_eq!((config.log_format, config.engine), (LogFormat::Text, EngineKind::Fjall));
    assert_eq!(config.warnings(), Vec::<String>::new());
}

#[test]
fn flags_win_over_variables_over_the_file_over_defaults() {
    let mut sources = file("name = 'file'\nheartbeat-ms = 50\nlog_format = 'json'\ndata_dir = 'f'");
    sources.variables = variables(&[("QUORATE_NAME", "variable"), ("QUORATE_HEARTBEAT_MS", "60")]).variables;
    sources.flags = flags(&[("name", "flag")]).flags;
    let config = resolved(&sources);
    assert_eq!((&*config.name, config.heartbeat_ms, config.log_format), ("flag", 60, LogFormat::Json));
    assert_eq!((config.data_dir, config.election_min_ms), (PathBuf::from("f"), 600));
}

#[test]
fn every_key_is_read_from_every_source() {
    let other = |key: &str| match key {
        "name" => "x9",
        "data_dir" => "/x9",
        "client_addr" => "127.0.0.9:1",
        "client_advertise" => "x9:2",
        "etcd_addr" => "users=127.0.0.9:7",
        "peer_addr" => "127.0.0.9:3",
        "peer_advertise" => "x9:4",
        "cluster" => "n1=127.0.0.1:2380,x9=h:5",
        "join" => "h:6",
        "labels" => "zone=x9",
        "log" => "debug",
        "log_format" => "json",
        "engine" => "memory",
        "tls_cert" | "tls_key" | "tls_ca" | "peer_tls_cert" | "peer_tls_key" | "peer_tls_ca" => "x9.pem",
        "insecure" => "true",
        "replication_factor" => "5",
        "heartbeat_ms" => "99",
        "election_min_ms" => "499",
        "election_max_ms" => "999",
        _ => "33554431",
    };
    let text = |key: &str| match key {
        "requests_in_flight_max" | "value_bytes_max" => "4095",
        _ => other(key),
    };
    // Files of TLS come together, and a node that takes a place joins.
    let tls: Vec<_> = SETTINGS.into_iter().filter(|key| key.contains("tls_")).map(|key| (key, "x8.pem")).collect();
    for key in SETTINGS.into_iter().filter(|key| *key != "replace") {
        let tls: &[_] = if key.contains("tls_") { &tls } else { &[] };
        let unset = resolved(&flags(tls));
        let others: Vec<_> = tls.iter().copied().filter(|(other, _)| *other != key).collect();
        let with = |sources: Sources| resolved(&Sources { flags: flags(&others).flags, ..sources });
        let by_flag = resolved(&flags(&[&others[..], &[(key, text(key))]].concat()));
        assert_ne!(by_flag, unset, "{key} changes nothing");
        let variable = format!("QUORATE_{}", key.to_uppercase());
        assert_eq!(with(variables(&[(&variable, text(key))])), by_flag, "{variable}");
        assert_eq!(with(file(&format!("{key} = {:?}", text(key)))), by_flag, "{key} in a file");
    }
}

#[test]
fn a_node_that_joins_has_no_first_members() {
    let config = resolved(&flags(&[("join", "h:2380"), ("replace", "n3"), ("peer_addr", "127.0.0.1:9")]));
    assert_eq!((config.join.as_deref(), config.replace.as_deref()), (Some("h:2380"), Some("n3")));
    assert_eq!(config.name, "n3", "who takes a place takes the name, too");
    assert!(config.founding.is_empty());
    let named = resolved(&flags(&[("join", "h:2380"), ("replace", "n3"), ("name", "n9")]));
    assert_eq!(named.name, "n9");
    assert!(error(&flags(&[("replace", "n3")])).contains("needs join"));
    assert!(error(&flags(&[("join", "h:2380"), ("cluster", "n1=h:1")])).contains("give one"));
}

#[test]
fn lists_may_be_tables_or_arrays_in_a_file() {
    let wanted = founding(&[("n1", "127.0.0.1:2380"), ("n2", "h:1")]);
    let table = "[cluster]\nn1 = '127.0.0.1:2380'\nn2 = 'h:1'\n[labels]\nzone = 'a'";
    assert_eq!(resolved(&file(table)).founding, wanted);
    assert_eq!(resolved(&file(table)).labels, founding(&[("zone", "a")]));
    assert_eq!(resolved(&file("cluster = ['n1=127.0.0.1:2380', 'n2=h:1']")).founding, wanted);
    assert_eq!(resolved(&file("log_segment_bytes = 33554432")).log_segment_bytes, 32 << 20);
}

#[test]
fn addresses_follow_from_each_other() {
    let cluster = ("cluster", "n1=10.0.0.1:2380,n2=10.0.0.2:2380");
    let open = ("insecure", "true");
    let config = resolved(&flags(&[cluster, open]));
    assert_eq!((&*config.peer_listen, &*config.peer_advertise), ("10.0.0.1:2380", "10.0.0.1:2380"));
    let config = resolved(&flags(&[cluster, open, ("peer_addr", "0.0.0.0:2380")]));
    assert_eq!((&*config.peer_listen, &*config.peer_advertise), ("0.0.0.0:2380", "10.0.0.1:2380"));
    assert!(config.warnings().iter().any(|warning| warning.contains("peers on 0.0.0.0:2380")));
    let config = resolved(&flags(&[open, ("client_addr", "0.0.0.0:2379"), ("client_advertise", "db.example.org:443")]));
    assert_eq!(config.client_advertise, "db.example.org:443");
}

#[test]
fn flags_and_files_that_cannot_be_used() {
    for (key, text, why) in [
        ("name", "a b", "--name: \"a b\" must be 1 to 64"),
        ("data_dir", "", "--data-dir: \"\" must name a directory"),
        ("client_addr", "2379", "--client-addr: \"2379\" must be host:port"),
        ("client_addr", "0.0.0.0:2379", "set client_advertise to the host:port that reaches this node"),
        ("client_addr", "127.0.0.1:0", "set client_advertise"),
        ("client_addr", "127.0.0.1:2380", "both 127.0.0.1:2380"),
        ("client_advertise", "0.0.0.0:2379", "others need one they can connect to"),
        ("peer_addr", "[::]:2380", "set peer_advertise"),
        ("cluster", "n2=h:1,n3=h:2", "cluster names n2, n3, but not this node: name is n1"),
        ("cluster", "n1=h:1,n1=h:2", "names n1 twice"),
        ("cluster", "n1=h:1,n2=h:1", "the same address"),
        ("cluster", "n1", "no such pair"),
        ("labels", "zone", "no such pair"),
        ("replication_factor", "0", "whole number from 1 to 9"),
        ("log", "info,[", "no log filter"),
        ("log_format", "xml", "must be text or json"),
        ("value_bytes_max", "2MiB", "bytes"),
        ("requests_in_flight_max", "0", "whole number from 1"),
        ("heartbeat_ms", "soon", "whole number"),
        ("heartbeat_ms", "400", "election_min_ms (600) must be at least 2 times heartbeat_ms (400)"),
        ("election_max_ms", "500", "must be greater than election_min_ms"),
        ("log_segment_bytes", "1MiB", "bytes"),
        ("tls_cert", "", "--tls-cert: \"\" must name a file"),
        ("tls_cert", "c.pem", "needs both tls_cert and tls_key"),
        ("tls_ca", "ca.pem", "needs both tls_cert and tls_key"),
        ("peer_tls_ca", "ca.pem", "needs peer_tls_cert, peer_tls_key and peer_tls_ca"),
        ("insecure", "perhaps", "must be true or false"),
        ("engine", "rocksdb", "must be fjall, or sled"),
        #[cfg(not(feature = "engine-sled"))]
        ("engine", "sled", "--engine: \"sled\" is not in this kvd: build it with `cargo build --release --features"),
    ] {
        let found = error(&flags(&[(key, text)]));
        assert!(found.contains(why), "{key} = {text}: {found}");
    }
    let found = error(&flags(&[("cluster", "n1=h:1"), ("peer_advertise", "h:2")]));
    assert!(found.contains("peer_advertise is h:2, but cluster says that n1 is at h:1"), "{found}");
    for (text, why) in [
        ("hartbeat_ms = 1", "unknown setting hartbeat_ms in kvd.toml; did you mean heartbeat_ms?"),
        ("[server]\nname = 'x'", "unknown setting server in kvd.toml"),
        ("name = 1.5", "must be a text"),
        ("name = true", "must be a text"),
        ("labels = [1]", "must be a text"),
        ("heartbeat_ms = -1", "heartbeat_ms in kvd.toml: \"-1\" must be a whole number"),
        ("heartbeat_ms = 50\nheartbeat-ms = 60", "the same key"),
        ("name = ", "kvd.toml is not a TOML file"),
    ] {
        let found = error(&file(text));
        assert!(found.contains(why), "{text}: {found}");
    }
}

#[test]
fn without_tls_others_are_kept_out_unless_that_is_not_wanted() {
    let client = [("client_addr", "0.0.0.0:2379"), ("client_advertise", "db.example.org:2379")];
    let peer = [("cluster", "n1=10.0.0.1:2380")];
    let client_tls = [("tls_cert", "c.pem"), ("tls_key", "k.pem")];
    let peer_tls = [("peer_tls_cert", "c.pem"), ("peer_tls_key", "k.pem"), ("peer_tls_ca", "ca.pem")];
    let insecure = [("insecure", "true")];
    for (given, why) in [
        (
            &client[..],
            "client_addr is 0.0.0.0:2379, where others can reach this node, and there is no TLS: set tls_cert",
        ),
        (&peer, "peer_addr is 10.0.0.1:2380, where others can reach this node, and there is no TLS: set peer_tls_cert"),
        (&[&client[..], &peer_tls].concat(), "set tls_cert and tls_key"),
        (&[&peer[..], &client_tls].concat(), "set peer_tls_cert"),
        (&[&client[..], &[("insecure", "false")]].concat(), "say --insecure"),
    ] {
        let found = error(&flags(given));
        assert!(found.contains(why), "{given:?}: {found}");
    }
    for (port, tls) in [(&client[..], &client_tls[..]), (&peer, &peer_tls)] {
        let guarded = resolved(&flags(&[port, tls].concat()));
        assert_eq!(guarded.warnings(), Vec::<String>::new());
        let open = resolved(&flags(&[port, &insecure].concat()));
        assert_eq!(open.warnings().len(), 1, "what was asked for is still said");
    }
    assert!(resolved(&file("insecure = true")).insecure);
}

#[test]
fn the_state_goes_to_fjall_unless_another_engine_is_asked_for() {
    assert_eq!(resolved(&flags(&[])).engine, EngineKind::Fjall);
    assert_eq!(resolved(&flags(&[("engine", "memory")])).engine, EngineKind::Memory);
    #[cfg(feature = "engine-sled")]
    assert_eq!(resolved(&flags(&[("engine", "sled")])).engine, EngineKind::Sled);
}

#[test]
fn a_log_level_speaks_of_our_own_lines() {
    assert_eq!(resolved(&Sources::default()).log_filter, "warn,openraft=error,quorate=info,kvd=info");
    let filter = |text| resolved(&flags(&[("log", text)])).log_filter;
    assert_eq!(filter("debug"), "warn,openraft=error,quorate=debug,kvd=debug");
    assert_eq!(filter("error"), "error", "nobody speaks below it");
    assert_eq!(filter("info,openraft=info"), "info,openraft=info");
}

#[test]
fn variables_that_are_no_settings() {
    let found = error(&variables(&[("QUORATE_DATADIR", "x")]));
    assert_eq!(found, "unknown setting QUORATE_DATADIR in the environment; did you mean QUORATE_DATA_DIR?");
    let found = error(&variables(&[("QUORATE_name", "x")]));
    assert!(found.contains("did you mean QUORATE_NAME?"), "{found}");
    let found = error(&variables(&[("QUORATE_HEARTBEAT_MS", "x")]));
    assert!(found.starts_with("QUORATE_HEARTBEAT_MS: \"x\" must be a whole number"), "{found}");
    let harmless = variables(&[
        ("QUORATE_ENDPOINTS", "a:1"),
        ("QUORATE_CONFIG", "kvd.toml"),
        ("QUORATE_NAME", ""),
        ("QUORATE_SERVICE_HOST", "10.0.0.1"),
        ("QUORATE_PORT_2379_TCP_ADDR", "10.0.0.1"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(resolved(&harmless), resolved(&Sources::default()));
}

#[test]
fn further_ports_are_for_keyspaces_each_its_own() {
    let config = resolved(&flags(&[("etcd_addr", "a=127.0.0.1:3379, b=127.0.0.1:3380")]));
    assert_eq!(config.etcd_listen, founding(&[("a", "127.0.0.1:3379"), ("b", "127.0.0.1:3380")]));
    let advertise = ("client_advertise", "node.example:2379");
    let config = resolved(&flags(&[("etcd_addr", "a=127.0.0.1:3379"), advertise]));
    assert_eq!(config.etcd_advertise("127.0.0.1:3379"), "node.example:3379");
    for (wrong, why) in [
        ("127.0.0.1:3379", "no such pair"),
        ("=127.0.0.1:3379", "must name a keyspace"),
        ("A=127.0.0.1:3379", "in a-z 0-9 . _ -"),
        ("a=127.0.0.1:0", "a port other than 0"),
        ("a=nonsense", "gives a the address"),
        ("a=127.0.0.1:3379,b=127.0.0.1:3379", "each address once"),
        ("a=127.0.0.1:3379,a=127.0.0.1:3380", "twice"),
        ("a=127.0.0.1:2379", "which client_addr or peer_addr has"),
        ("a=0.0.0.0:3379", "there is no TLS"),
    ] {
        let error = error(&flags(&[("etcd_addr", wrong)]));
        assert!(error.contains(why), "{wrong}: {error}");
    }
}
