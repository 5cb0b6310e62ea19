//! How packets enter and leave.
