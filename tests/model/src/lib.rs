//! A naive interpreter of what the dataplane was told.
