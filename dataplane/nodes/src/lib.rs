//! What happens to packets, in order of travel.
