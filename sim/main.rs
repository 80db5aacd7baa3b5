//! Whole nodes in a simulated world.
mod net;
fn _use() -> net::SimNetwork { net::SimNetwork }
