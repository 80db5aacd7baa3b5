//! Writers under kill -9: nothing acknowledged is lost, nothing happens twice.
