//! The README's main job, with the leader killed in the middle.
