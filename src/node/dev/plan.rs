//! Which nodes a development cluster has: names, ports, directories, commands. Pure.

use std::path::{Path, PathBuf};

use super::DevError;

/// Most nodes of a development cluster.
pub const DEV_NODES_MAX: u16 = 9;
/// Nodes of a new one, unless asked for otherwise.
pub const DEV_NODES_DEFAULT: u16 = 3;
/// Client port of its first node, unless asked for otherwise.
pub const DEV_PORT_DEFAULT: u16 = 2379;

/// A client port and a peer port.
const PORTS_PER_NODE: u16 = 2;

/// What a directory remembers of its cluster, since its members know each other by these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Layout {
    pub(super) nodes: u16,
    pub(super) port: u16,
}

impl Layout {
    /// Fits what was asked for to what the directory holds.
    pub(super) fn choose(
        found: Option<Self>,
        nodes: Option<u16>,
        port: Option<u16>,
        dir: &Path,
    ) -> Result<Self, DevError> {
        let Some(found) = found else {
            let new = Self { nodes: nodes.unwrap_or(DEV_NODES_DEFAULT), port: port.unwrap_or(DEV_PORT_DEFAULT) };
            return new.checked();
        };
        if nodes.is_some_and(|nodes| nodes != found.nodes) || port.is_some_and(|port| port != found.port) {
            let dir = dir.display().to_string();
            return Err(DevError::OtherLayout { dir, nodes: found.nodes, port: found.port });
        }
        found.checked()
    }

    fn checked(self) -> Result<Self, DevError> {
        let ports = self.nodes.checked_mul(PORTS_PER_NODE);
        let last = ports.and_then(|ports| self.port.checked_add(ports.checked_sub(1)?));
        if self.nodes == 0 || self.nodes > DEV_NODES_MAX || self.port == 0 || last.is_none() {
            return Err(DevError::BadLayout { nodes: self.nodes, port: self.port });
        }
        Ok(self)
    }
}

/// One node of the cluster.
#[derive(Clone, Debug)]
pub(super) struct DevNode {
    pub(super) name: String,
    pub(super) client: String,
    pub(super) peer: String,
    pub(super) data_dir: PathBuf,
    /// What starts it, without the program.
    pub(super) arguments: Vec<String>,
}

/// The nodes of a layout, in order.
pub(super) fn nodes(layout: Layout, dir: &Path, extra: &[String]) -> Vec<DevNode> {
    let name = |index: u16| format!("n{}", index + 1);
    let address = |index: u16, offset: u16| format!("127.0.0.1:{}", layout.port + index * PORTS_PER_NODE + offset);
    let members = (0..layout.nodes).map(|index| format!("{}={}", name(index), address(index, 1)));
    let cluster = members.collect::<Vec<_>>().join(",");
    let node = |index| {
        let (name, client, peer) = (name(index), address(index, 0), address(index, 1));
        let data_dir = dir.join(&name);
        let dir = data_dir.display().to_string();
        let pairs = [
            ("--name", &name),
            ("--data-dir", &dir),
            ("--client-addr", &client),
            ("--peer-addr", &peer),
            ("--cluster", &cluster),
        ];
        let arguments = pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value.clone()]);
        let arguments = arguments.chain(extra.iter().cloned()).collect();
        DevNode { name, client, peer, data_dir, arguments }
    };
    (0..layout.nodes).map(node).collect()
}

/// A command as a shell reads it.
pub(super) fn command_line(program: &str, arguments: &[String]) -> String {
    let words = std::iter::once(program).chain(arguments.iter().map(String::as_str));
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./:=,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{Layout, command_line, nodes};

    #[test]
    fn ports_count_up_in_pairs() {
        let nodes = nodes(Layout { nodes: 3, port: 2379 }, Path::new("d"), &["--log".to_owned(), "debug".to_owned()]);
        let clients: Vec<_> = nodes.iter().map(|node| node.client.as_str()).collect();
        assert_eq!(clients, ["127.0.0.1:2379", "127.0.0.1:2381", "127.0.0.1:2383"]);
        assert_eq!(
            command_line("kvd", &nodes[1].arguments),
            "kvd --name n2 --data-dir d/n2 --client-addr 127.0.0.1:2381 --peer-addr 127.0.0.1:2382 \
             --cluster n1=127.0.0.1:2380,n2=127.0.0.1:2382,n3=127.0.0.1:2384 --log debug"
        );
    }

    #[test]
    fn a_directory_keeps_its_layout() {
        let dir = Path::new("d");
        let found = Some(Layout { nodes: 5, port: 3000 });
        assert_eq!(Layout::choose(found, None, None, dir).ok(), found);
        assert_eq!(Layout::choose(found, Some(5), Some(3000), dir).ok(), found);
        let error = Layout::choose(found, Some(3), None, dir).expect_err("another size").to_string();
        assert!(error.contains("--nodes 5 --port 3000"), "{error}");
        assert_eq!(Layout::choose(None, None, None, dir).ok(), Some(Layout { nodes: 3, port: 2379 }));
        for (nodes, port) in [(0, 2379), (10, 2379), (3, 0), (3, 65531)] {
            assert!(Layout::choose(None, Some(nodes), Some(port), dir).is_err(), "{nodes} from {port}");
        }
        assert!(Layout::choose(None, Some(3), Some(65530), dir).is_ok());
    }

    #[test]
    fn words_are_quoted_for_a_shell() {
        let words = ["a b".to_owned(), "it's".to_owned(), String::new(), "$x".to_owned()];
        assert_eq!(command_line("./kvd", &words), r"./kvd 'a b' 'it'\''s' '' '$x'");
    }
}
