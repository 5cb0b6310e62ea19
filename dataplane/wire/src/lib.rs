//! What a packet looks like.
