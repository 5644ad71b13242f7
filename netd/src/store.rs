//! Definitions and autostart links on disk.
