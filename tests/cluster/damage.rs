//! Damaged logs, damaged state, full disks.
