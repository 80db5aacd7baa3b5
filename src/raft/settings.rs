//! How openraft is set: the reasons are in `docs/decisions/0003-raft-settings.md`.

use std::sync::Arc;

use openraft::{Config, ConfigError, SnapshotPolicy};

/// Time limit of openraft for a whole snapshot. Ours are per chunk, so this one is out of the way.
const SNAPSHOT_TRANSFER_MS_MAX: u64 = 24 * 3600 * 1000;
/// Entries in one append request; bytes are capped by the log store.
const APPEND_ENTRIES_MAX: u64 = 1_024;
/// Proposals and frames that wait for a group's core.
const CORE_QUEUE_MAX: u64 = 8_192;

/// Heartbeats and elections, in milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TickConfig {
    /// Between two heartbeats of a leader to an idle follower.
    pub heartbeat_ms: u64,
    /// Shortest random wait of a follower before it stands for election.
    pub election_min_ms: u64,
    /// Longest random wait, and how long a follower trusts a leader it heard of.
    pub election_max_ms: u64,
}

impl Default for TickConfig {
    fn default() -> Self {
        Self { heartbeat_ms: 150, election_min_ms: 600, election_max_ms: 1_200 }
    }
}

/// openraft's configuration for every group.
///
/// # Errors
/// When the times contradict each other.
pub(super) fn config(tick: TickConfig) -> Result<Arc<Config>, ConfigError> {
    let probe = tick.election_max_ms.saturating_mul(2);
    // Appends count as heartbeats, as long as a follower can never wait for one beyond its timeout.
    let spare = tick.heartbeat_ms.saturating_mul(2).saturating_add(tick.heartbeat_ms / 4 + 1);
    let suppression = if spare < tick.election_min_ms { tick.heartbeat_ms } else { 0 };
    #[allow(deprecated, reason = "one field of it is a time limit that must be out of the way")]
    let config = Config {
        cluster_name: "quorate".to_owned(),
        heartbeat_interval: tick.heartbeat_ms,
        heartbeat_min_interval: Some(suppression),
        election_timeout_min: tick.election_min_ms,
        election_timeout_max: tick.election_max_ms,
        install_snapshot_timeout: SNAPSHOT_TRANSFER_MS_MAX,
        send_snapshot_timeout: SNAPSHOT_TRANSFER_MS_MAX,
        max_payload_entries: APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        api_channel_size: Some(CORE_QUEUE_MAX),
        notification_channel_size: Some(CORE_QUEUE_MAX),
        quorum_loss_probe_interval: Some(probe),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        allow_log_reversion: Some(false),
        ..Config::default()
    };
    config.validate().map(Arc::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_as_designed() {
        let config = config(TickConfig::default()).unwrap();
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(config.max_in_snapshot_log_to_keep, u64::MAX);
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.enable_leader_restore, Some(false), "trap: it defaults to true");
        assert_eq!(config.allow_log_reversion, Some(false));
        assert_eq!(config.quorum_loss_probe_interval, Some(2_400));
        assert!(config.install_snapshot_timeout().as_secs() > 3600, "trap: 200 ms for a whole snapshot by default");
    }

    #[test]
    fn contradicting_times_are_refused() {
        let tick = |heartbeat_ms, election_min_ms, election_max_ms| TickConfig {
            heartbeat_ms,
            election_min_ms,
            election_max_ms,
        };
        assert!(config(tick(100, 100, 200)).is_err());
        assert!(config(tick(100, 300, 300)).is_err());
        assert_eq!(config(tick(100, 150, 300)).unwrap().heartbeat_min_interval, Some(0));
    }
}
