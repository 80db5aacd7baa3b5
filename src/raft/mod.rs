//! Everything openraft: types, log store, state machine adapter, transport, snapshot transfer and
//! the group handle. Commands are opaque bytes here.

pub mod apply;
mod codec;
pub mod peers;
mod runtime;
pub mod types;
