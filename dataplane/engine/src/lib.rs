//! Where packets live and how they move.
