//! What nodes know.
