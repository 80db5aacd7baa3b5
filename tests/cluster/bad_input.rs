//! What no client or peer should send, and what the node answers.
