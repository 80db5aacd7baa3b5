//! The arguments of `lease`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::duration;

/// `lease`.
#[derive(Subcommand, Debug)]
pub enum LeaseCommand {
    /// Grants a lease and prints its id.
    #[command(
        after_help = "Keys are attached with `kvctl put KEY VALUE --lease ID` and go when the lease ends. Ids are numbers; those\nthat etcdctl prints are hexadecimal, write them as 0x….\n\nExamples:\n  kvctl lease grant 60s\n  kvctl lease grant 5m --id 17"
    )]
    Grant {
        /// How long it lasts unless it is kept alive: 30s, 5m, 12h.
        #[arg(value_parser = duration)]
        ttl: Duration,
        /// Its id [default: the server chooses one].
        #[arg(long, value_parser = lease_id)]
        id: Option<u64>,
    },
    /// Ends a lease and deletes its keys.
    #[command(after_help = "Examples:\n  kvctl lease revoke 17\n  kvctl lease revoke 0x694d77a1f0b9c113")]
    Revoke(LeaseArgs),
    /// Begins the time of a lease anew, again and again until it is interrupted.
    #[command(after_help = "Examples:\n  kvctl lease keep-alive 17\n  kvctl lease keep-alive 17 --once")]
    KeepAlive {
        /// Which lease.
        #[command(flatten)]
        lease: LeaseArgs,
        /// Only once.
        #[arg(long)]
        once: bool,
    },
    /// Shows how much time a lease has left.
    #[command(after_help = "Examples:\n  kvctl lease time-to-live 17\n  kvctl lease time-to-live 17 --keys -w json")]
    TimeToLive {
        /// Which lease.
        #[command(flatten)]
        lease: LeaseArgs,
        /// Shows its keys, too.
        #[arg(long)]
        keys: bool,
    },
    /// Lists the leases, those of puts with a time to live among them.
    #[command(after_help = "Examples:\n  kvctl lease list\n  kvctl lease list -w table")]
    List,
}

/// Which lease.
#[derive(Args, Debug)]
pub struct LeaseArgs {
    /// Its id: a number, or 0x and hexadecimal digits.
    #[arg(value_name = "ID", value_parser = lease_id)]
    pub lease: u64,
}

/// Reads the id of a lease.
pub(crate) fn lease_id(text: &str) -> Result<u64, String> {
    let id = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')),
        None => text.parse().ok().filter(|_| !text.starts_with('+')),
    };
    id.filter(|id| *id > 0).ok_or_else(|| {
        format!(
            "`{text}` is no id of a lease: write a number from 1 on, or 0x and hexadecimal digits as etcdctl shows them"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::lease_id;

    #[test]
    fn ids_are_numbers_of_either_kind() {
        assert_eq!(lease_id("17"), Ok(17));
        assert_eq!(lease_id("0x694d77a1f0b9c113"), Ok(0x694d_77a1_f0b9_c113));
        for bad in ["", "0", "0x", "0x0", "-1", "+1", "0x+1", "694d77a1f0b9c113", "18446744073709551616"] {
            assert!(lease_id(bad).is_err(), "{bad}");
        }
    }
}
